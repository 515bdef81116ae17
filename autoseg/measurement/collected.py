"""Collects the measurements of all cases, of which little is kept in memory, and builds the fingerprint from them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from autoseg import __version__
from autoseg.document import PackedResults, PackedSequence, PartCodec
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.geometry import DistanceUnit
from autoseg.labels import InstanceTargets, LabelScheme
from autoseg.measurement.cases import CaseMeasurement, MirrorCounts, merge_mirror_counts
from autoseg.measurement.foreground import AnySummary, SummaryCodec, SummaryStore, merge_channels, open_summary_store


class MirrorCodec:
    """Packs the points at which labels meet mirror images."""

    def pack(self, counts: MirrorCounts) -> tuple[bytes, bytes]:
        """Returns the bytes of both arrays."""
        return counts.sizes.tobytes(), counts.overlaps.tobytes()

    def unpack(self, packed: Any) -> MirrorCounts:
        """Builds the arrays anew."""
        sizes, overlaps = (np.frombuffer(part, np.int32) for part in packed)
        return MirrorCounts(sizes=sizes, overlaps=overlaps.reshape(-1, 4))


class MeasuredCases:
    """Measurements of the cases of a dataset, in the order of the cases.

    Attributes:
        store: Keeps intensities in a file.
    """

    def __init__(self, store: SummaryStore) -> None:
        self.store = store
        self._fingerprints = PackedResults(PartCodec(CaseFingerprint))
        self._mirror_counts = PackedResults(MirrorCodec())
        self._intensities = PackedResults(SummaryCodec(store.file))

    def add(self, index: int, measured: CaseMeasurement) -> None:
        """Adds the measurements of the case with this index.

        Raises:
            RunError: The file of intensities cannot be written.
        """
        self._fingerprints.add(index, measured.fingerprint)
        self._mirror_counts.add(index, measured.mirror_counts)
        self._intensities.add(index, self.store.keep(measured.intensities))

    @property
    def fingerprints(self) -> PackedSequence[CaseFingerprint]:
        """The measurements that the fingerprint lists."""
        return self._fingerprints.sort()

    @property
    def mirror_counts(self) -> PackedSequence[MirrorCounts]:
        """The points at which labels meet mirror images."""
        return self._mirror_counts.sort()

    @property
    def intensities(self) -> Sequence[tuple[AnySummary, ...]]:
        """The foreground intensities; none of a case without foreground."""
        return self._intensities.sort()


@contextmanager
def collect_measurements(measurements: Iterable[CaseMeasurement] = ()) -> Iterator[MeasuredCases]:
    """Context manager that collects measurements, whose intensities can be read within it."""
    with open_summary_store() as store:
        measured = MeasuredCases(store)
        for index, measurement in enumerate(measurements):
            measured.add(index, measurement)
        yield measured


def build_fingerprint(
    measured: MeasuredCases,
    *,
    dataset_name: str,
    file_ending: str,
    labels: LabelScheme,
    channel_names: Sequence[str],
    orientation: str | None,
    distance_unit: DistanceUnit = "mm",
    has_instances: bool = False,
    targets: InstanceTargets | None = None,
) -> Fingerprint:
    """Combines the measurements of all cases."""
    cases = measured.fingerprints
    return Fingerprint(
        autoseg_version=__version__,
        dataset_name=dataset_name,
        file_ending=file_ending,
        labels=labels,
        channels=merge_channels(measured.intensities, channel_names),
        cases=cases,
        orientation=orientation,
        distance_unit=distance_unit,
        has_instances=has_instances,
        targets=targets,
        median_relative_size_after_cropping=float(np.median([case.relative_size_after_cropping for case in cases])),
        mirror_overlaps=merge_mirror_counts(measured.mirror_counts, labels),
    )
