"""The images that a prediction is to segment: files as those of the training, or series of DICOM slices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Integer

from autoseg.dataset import Case, find_images
from autoseg.dataset.files import list_files, select_ending
from autoseg.dicom_files import explain_dicom
from autoseg.errors import PredictionError, Problem, VolumeError, group_problems
from autoseg.geometry import Grid
from autoseg.plan.document import Plan
from autoseg.processes.progress import Progress
from autoseg.volume_io import Volume, label_map_ending, read_image, write_label_map
from autoseg.volume_io.dicom import DicomSeries, find_series, read_stack, select_series, stack_slices
from autoseg.workflows.predict.prediction_folder import DICOM_SOURCE

SERIES_ENDING: Final = ".nii.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """Image files with the ending of the training images, or one file.

    Attributes:
        cases: Complete images.
        problems: Problems of the others.
        ending: Ending of the label maps.
        source: Folder of the images, as the record of the prediction names it.
    """

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]
    ending: str
    source: str
    channel_count: int

    def describe(self, case: Case) -> str:
        """Names an image in the record, within `source`."""
        return case.image_paths[0].name

    def read(self, case: Case) -> Volume:
        """Reads all channels."""
        return read_image(case.image_paths, channel_count=self.channel_count)

    def name_files(self, case: Case, array: Float32[np.ndarray, "channel z y x"]) -> str:
        """Names the files with values that are not finite; all where there is none, or one holds all channels."""
        pairs = zip(case.image_paths, array, strict=False)
        broken = [path for path, channel in pairs if not np.isfinite(channel).all()]
        chosen = broken if broken and len(case.image_paths) == len(array) else case.image_paths
        return ", ".join(map(str, chosen))

    def write(self, path: Path, label_map: Integer[np.ndarray, "z y x"], *, grid: Grid, case: Case) -> None:
        """Writes a file like that of the first channel."""
        write_label_map(path, label_map, grid=grid, like=case.image_paths[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesImages:
    """Series of DICOM slices; a case has the name of the first one's UID, as file names may hold that of a patient.

    Attributes:
        problems: Files that cannot be read, and belong to none of the cases.
        series: Series of every case, one for each channel.
    """

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]
    series: dict[str, tuple[DicomSeries, ...]]
    ending: str = SERIES_ENDING
    source: str = DICOM_SOURCE

    def describe(self, case: Case) -> str:
        """Returns the UID of the first series."""
        return case.name

    def read(self, case: Case) -> Volume:
        """Reads the series of all channels."""
        try:
            return read_stack(stack_slices(self.series[case.name][0]))
        except VolumeError as error:
            msg = f"{self.series[case.name][0].describe()}: {error}"
            raise VolumeError(msg) from error

    def name_files(self, case: Case, array: Float32[np.ndarray, "channel z y x"]) -> str:
        """Names the series."""
        del array
        return self.series[case.name][0].describe()

    def write(self, path: Path, label_map: Integer[np.ndarray, "z y x"], *, grid: Grid, case: Case) -> None:
        """Writes NIfTI."""
        del case
        write_label_map(path, label_map, grid=grid, like=None)


FoundImages = ImageFiles | SeriesImages


def find_predicted_images(place: Path, plan: Plan, *, series: Sequence[str], progress: Progress) -> FoundImages:
    """Finds the images of a folder, or one file with its channels.

    Args:
        place: A folder of images, one image, or a folder with DICOM somewhere below it.
        plan: Tells the number of channels, and the ending of the files.
        series: DICOM series to take, each by UID, number or description; empty for all.
        progress: Receives what was left out.

    Raises:
        PredictionError: There is no complete image; the message lists all problems.
    """
    count = len(plan.channels)
    if series or _holds_series(place, plan.file_ending):
        return _find_series_images(place, series, progress=progress)
    cases, problems = find_images(place, channel_count=count, file_ending=plan.file_ending)
    return ImageFiles(
        cases=cases,
        problems=problems,
        ending=label_map_ending(plan.file_ending),
        source=str((place if place.is_dir() else place.parent).resolve()),
        channel_count=count,
    )


def _holds_series(place: Path, ending: str) -> bool:
    """Whether a folder holds DICOM, and no file like those of the training."""
    if not place.is_dir() or select_ending(list_files(place), ending.lower()):
        return False
    return explain_dicom(place) != ""


def _find_series_images(place: Path, wanted: Sequence[str], *, progress: Progress) -> SeriesImages:
    found = find_series(place)
    for note in found.notes:
        progress.note(note)
    problems = []
    if found.unreadable:
        for reason in found.unreadable.values():
            progress.note(f"warning: {reason}")
        text = (
            f"{len(found.unreadable)} DICOM files cannot be read, so that slices may be missing; they are named above"
        )
        problems.append(Problem(text=text, cases=("damaged files",)))
    chosen = found.series
    if wanted:
        named = [select_series(found.series, text) for text in wanted]
        chosen = tuple(one for one in found.series if any(one in group for group in named))
    if not chosen:
        lines = (f"  - {problem.describe()}" for problem in group_problems(problems))
        msg = "\n".join([f"{place} holds no series of images", *lines])
        raise PredictionError(msg)
    for one in chosen:
        progress.note(f"{one.describe()} becomes {one.uid}{SERIES_ENDING}")
    return SeriesImages(
        cases=tuple(Case(name=one.uid, image_paths=(), label_path=None) for one in chosen),
        problems=tuple(problems),
        series={one.uid: (one,) for one in chosen},
    )
