"""The images that a prediction is to segment: files as those of the training, or series of DICOM slices."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float32, Integer

from autoseg.dataset import Case, find_images
from autoseg.dataset.files import CHANNEL_NAME, get_stem, list_names, select_ending
from autoseg.dataset.terms import read_terms
from autoseg.dicom_files import explain_dicom
from autoseg.document import read_document
from autoseg.errors import OptionError, PredictionError, Problem, VolumeError, group_problems
from autoseg.exchange.model_file import find_terms
from autoseg.file_endings import DICOM_ENDINGS
from autoseg.geometry import Grid
from autoseg.labels import ClassTerms, CodedTerm, LabelScheme
from autoseg.plan.document import Plan
from autoseg.processes.case_pool import Failure
from autoseg.processes.progress import Progress
from autoseg.remote.local_files import FolderNames, list_image_files, use_local
from autoseg.remote.mirror import find_location
from autoseg.run_folder import RunFolder
from autoseg.volume_io import Volume, check_same_grid, label_map_ending, read_grid, read_image, write_label_map
from autoseg.volume_io.dicom import (
    RESULT_FORMATS,
    Code,
    DicomFormat,
    DicomSeries,
    Segment,
    SegmentedBy,
    check_dicom_libraries,
    find_file_series,
    find_series,
    list_series,
    read_stack,
    select_series,
    stack_slices,
)
from autoseg.workflows.predict.prediction_folder import DICOM_SOURCE

SERIES_ENDING: Final = ".nii.gz"
PRIVATE_SCHEME: Final = "99AUTOSEG"
STRUCTURE: Final = Code(scheme="SCT", value="123037004", meaning="Anatomical Structure")

LabelMap = Integer[np.ndarray, "z y x"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """Image files with the ending of the training images, or one file.

    Attributes:
        cases: Complete images.
        problems: Problems of the others.
        ending: Ending of the label maps.
        source: Folder of the images, as the record of the prediction names it.
        names: Names of the files of their folders, which are listed once for all images.
    """

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]
    ending: str
    source: str
    channel_count: int
    names: FolderNames = field(default_factory=FolderNames, compare=False)

    def describe(self, case: Case) -> str:
        """Names an image in the record, within `source`."""
        return case.image_paths[0].name

    def list_files(self, case: Case) -> list[Path]:
        """Lists the files of all channels."""
        return [file for path in case.image_paths for file in list_image_files(path, names=self.names)]

    def read_grid(self, case: Case) -> Grid:
        """Reads the grid of an image from the header of its first channel."""
        return read_grid(case.image_paths[0])

    def read(self, case: Case) -> Volume:
        """Reads all channels."""
        return read_image(case.image_paths, channel_count=self.channel_count)

    def name_files(self, case: Case, array: Float32[np.ndarray, "channel z y x"]) -> str:
        """Names the files with values that are not finite; all where there is none, or one holds all channels."""
        pairs = zip(case.image_paths, array, strict=False)
        broken = [path for path, channel in pairs if not np.isfinite(channel).all()]
        chosen = broken if broken and len(case.image_paths) == len(array) else case.image_paths
        return ", ".join(map(str, chosen))

    def list_outputs(self, case: Case) -> tuple[str, ...]:
        """Lists the names of the files that are made of a label map."""
        return (f"{case.name}{self.ending}",)

    def write(self, path: Path, label_map: LabelMap, grid: Grid, *, case: Case, made_by: SegmentedBy) -> None:
        """Writes one of the outputs: a file like that of the first channel."""
        del made_by
        write_label_map(path, label_map, grid=grid, like=case.image_paths[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesImages:
    """Series of DICOM slices; a case has the name of the first one's UID, as file names may hold that of a patient.

    Attributes:
        problems: Files that cannot be read, and belong to none of the cases.
        series: Series of every case, one for each channel.
        formats: Formats of DICOM in which results are written besides NIfTI.
        segments: Classes, as these formats name them.
        ending: Ending of the label maps.
    """

    cases: tuple[Case, ...]
    problems: tuple[Problem, ...]
    series: dict[str, tuple[DicomSeries, ...]]
    formats: tuple[DicomFormat, ...]
    segments: tuple[Segment, ...]
    source: str = DICOM_SOURCE
    ending: str = SERIES_ENDING

    def select(self, case: Case) -> "SeriesImages":
        """Returns one case alone, without the problems of others."""
        return replace(self, cases=(case,), problems=(), series={case.name: self.series[case.name]})

    def describe(self, case: Case) -> str:
        """Returns the UID of the first series."""
        return case.name

    def list_files(self, case: Case) -> list[Path]:
        """Lists the files of all channels, wherever they lie, by the identifiers of their slices."""
        slices = (sorted(one.slices, key=attrgetter("instance")) for one in self.series[case.name])
        return [header.path for of_channel in slices for header in of_channel]

    def read_grid(self, case: Case) -> Grid:
        """Returns the grid of the series of the first channel, from the headers of its slices."""
        series = self.series[case.name][0]
        with _name_series(series):
            return stack_slices(series).grid

    def read(self, case: Case) -> Volume:
        """Reads the series of all channels."""
        volumes = []
        for one in self.series[case.name]:
            with _name_series(one):
                volumes.append(read_stack(stack_slices(one)))
                check_same_grid(volumes[0].grid, volumes[-1].grid, what="the series (found) and that of channel 0")
        array = volumes[0].array if len(volumes) == 1 else np.concatenate([volume.array for volume in volumes])
        return Volume(array=array, grid=volumes[0].grid)

    def name_files(self, case: Case, array: Float32[np.ndarray, "channel z y x"]) -> str:
        """Names the series."""
        del array
        return self.series[case.name][0].describe()

    def list_outputs(self, case: Case) -> tuple[str, ...]:
        """Lists the names of the files that are made of a label map: NIfTI, then results in DICOM."""
        endings = (SERIES_ENDING, *(RESULT_FORMATS[name].ENDING for name in self.formats))
        return tuple(f"{case.name}{ending}" for ending in endings)

    def write(self, path: Path, label_map: LabelMap, grid: Grid, *, case: Case, made_by: SegmentedBy) -> None:
        """Writes one of the outputs."""
        module = next((one for one in RESULT_FORMATS.values() if path.name.endswith(one.ENDING)), None)
        if module is None:
            write_label_map(path, label_map, grid=grid, like=None)
            return
        source = self.series[case.name][0]
        with _name_series(source):
            stack = stack_slices(source)
            module.write(path, label_map, stack, segments=self.segments, made_by=made_by)


@contextmanager
def _name_series(series: DicomSeries) -> Iterator[None]:
    try:
        yield
    except VolumeError as error:
        msg = f"{series.describe()}: {error}"
        raise VolumeError(msg) from error


FoundImages = ImageFiles | SeriesImages
ImageSource = Path | SeriesImages
"""The images of a prediction: a folder or a file, or series that were found in one."""


def find_predicted_images(
    place: ImageSource,
    run: RunFolder,
    *,
    series: Sequence[str] = (),
    formats: Sequence[DicomFormat] = (),
    terms: Path | None = None,
    progress: Progress,
) -> FoundImages:
    """Finds the images of a folder, or one file with its channels.

    Args:
        place: A folder of images, one image, or a folder with DICOM below it; series are returned as they are.
        run: Run of the model, which tells the channels, the ending of the files, and the classes.
        series: DICOM series to take, each by UID, number or description; empty for all.
        formats: Formats of DICOM in which results of series are written besides NIfTI.
        terms: File with coded terms of classes, which these formats hold; None for those that the model knows.
        progress: Receives what was left out.

    Raises:
        OptionError: There are terms and no formats.
        DocumentError: The file with terms is not valid, or names other classes.
        PredictionError: There is no complete image; the message lists all problems. Or formats were asked for which
            there are no series or no libraries.
    """
    if isinstance(place, SeriesImages):
        return place
    plan = read_document(run.plan, Plan)
    count = len(plan.channels)
    if terms is not None and not formats:
        msg = f"--terms names the classes in results in DICOM; add --format {' or --format '.join(RESULT_FORMATS)}"
        raise OptionError(msg)
    for name in formats:
        check_dicom_libraries(RESULT_FORMATS[name].LIBRARIES, what=f"--format {name}")
    ending = plan.file_ending.lower()
    if series or formats or _holds_series(place, ending, channel_count=count):
        _note_other_images(place, ending, progress)
        segments = _list_segments(plan.labels, _find_terms(run, plan, terms))
        names = [channel.name for channel in plan.channels]
        return _find_series_images(place, series, names, formats=tuple(formats), segments=segments, progress=progress)
    cases, problems = find_images(place, channel_count=count, file_ending=plan.file_ending)
    if place.is_dir() and ending not in DICOM_ENDINGS and explain_dicom(place):
        progress.note(
            f"warning: {place} also holds DICOM, which is left out as there are files ending in {ending}; --series "
            f"chooses series instead (--series '*': all)"
        )
    return ImageFiles(
        cases=cases,
        problems=problems,
        ending=label_map_ending(plan.file_ending),
        source=find_location((place if place.is_dir() else place.parent).resolve()),
        channel_count=count,
    )


def _note_other_images(place: Path, ending: str, progress: Progress) -> None:
    """Notes files like those of the training that are left out, as series are to be predicted."""
    files = select_ending(list_names(place), ending) if place.is_dir() and ending not in DICOM_ENDINGS else []
    if files:
        progress.note(
            f"warning: {len(files)} files ending in {ending} are left out, as --series or --format is for DICOM"
        )


def _find_terms(run: RunFolder, plan: Plan, path: Path | None) -> dict[str, ClassTerms]:
    """Finds the terms of classes: those of a file before those that came with the model."""
    if path is None:
        return find_terms(run)
    with use_local(path):
        return find_terms(run) | read_terms(path, [entry.name for entry in plan.labels.classes])


def _holds_series(place: Path, ending: str, *, channel_count: int) -> bool:
    """Whether a folder holds DICOM, and no file like those of the training; or a file is a series, and those no DICOM.

    Where those were DICOM, it is enough that any series has several files; but names with the number of a channel, such
    as `case_0000.dcm`, are those of images: of files, or of folders with slices.
    """
    if not place.is_dir():
        return bool(find_file_series(place, ending, channel_count=channel_count))
    images = select_ending(list_names(place), ending)
    if not images:
        return explain_dicom(place) != ""
    if ending not in DICOM_ENDINGS or all(_has_channel(get_stem(name, ending), channel_count) for name in images):
        return False
    return any(len(one.slices) > 1 for one in find_series(place).series)


def _has_channel(stem: str, channel_count: int) -> bool:
    match = CHANNEL_NAME.fullmatch(stem)
    return match is not None and int(match["channel"]) < channel_count


def _find_series_images(
    place: Path,
    wanted: Sequence[str],
    channels: Sequence[str],
    *,
    formats: tuple[DicomFormat, ...],
    segments: tuple[Segment, ...],
    progress: Progress,
) -> SeriesImages:
    found = find_series(place)
    for note in (*found.notes, *(f"warning: {reason}" for reason in found.unreadable.values())):
        progress.note(note)
    problems = []
    if found.unreadable:
        text = (
            f"{len(found.unreadable)} DICOM files cannot be read, so that slices may be missing; they are named above"
        )
        problems.append(Problem(text=text, cases=("damaged files",)))
    if len(channels) == 1:
        chosen = _choose_series(found.series, wanted)
    else:
        chosen, incomplete = _choose_channels(found.series, wanted, channels)
        problems += incomplete
    if not chosen:
        lines = (f"  - {problem.describe()}" for problem in group_problems(problems))
        msg = "\n".join([f"{place} holds no series of images that can be predicted", *lines])
        raise PredictionError(msg)
    for name, group in chosen.items():
        progress.note(f"{' and '.join(one.describe() for one in group)} becomes {name}{SERIES_ENDING}")
    return SeriesImages(
        cases=tuple(Case(name=name, images=(), label=None) for name in chosen),
        problems=tuple(problems),
        series=chosen,
        formats=formats,
        segments=segments,
    )


def _choose_series(series: Sequence[DicomSeries], wanted: Sequence[str]) -> dict[str, tuple[DicomSeries, ...]]:
    named = [one for text in wanted for one in select_series(series, text)]
    return {one.uid: (one,) for one in series if one in named or not wanted}


def _choose_channels(
    series: Sequence[DicomSeries], wanted: Sequence[str], channels: Sequence[str]
) -> tuple[dict[str, tuple[DicomSeries, ...]], list[Problem]]:
    """Chooses one series for each channel in every study; returns those of complete studies, and problems of others."""
    if len(wanted) != len(channels):
        msg = (
            f"expected --series once for each of the {len(channels)} channels of the model, in the order "
            f"{', '.join(channels)}, found it {len(wanted)} times; there are {list_series(series)}"
        )
        raise PredictionError(msg)
    candidates = [select_series(series, text) for text in wanted]
    chosen, problems = {}, []
    for study in dict.fromkeys(one.study for one in series):
        groups = [[one for one in of_channel if one.study == study] for of_channel in candidates]
        wrong = [index for index, group in enumerate(groups) if len(group) != 1]
        if not wrong:
            chosen[groups[0][0].uid] = tuple(group[0] for group in groups)
        for index in wrong:
            text = (
                f"channel {channels[index]}: expected one series {wanted[index]!r} in every study, found "
                f"{list_series(groups[index])}; name it more exactly, or move the study away"
            )
            problems.append(Problem(text=text, cases=(study,)))
    return chosen, problems


def check_other_folder(images: ImageSource, out: Path) -> None:
    """Refuses to write among the images, as the next call would take label maps for images.

    Raises:
        PredictionError: Both are the same folder.
    """
    if isinstance(images, SeriesImages):
        return
    folder = images if images.is_dir() else images.parent
    if folder.resolve() == out.resolve():
        msg = f"{out} is the folder of the images; choose another folder for the label maps"
        raise PredictionError(msg)


def list_incomplete(problems: Sequence[Problem]) -> list[Failure]:
    """Lists the images that have problems before anything is predicted."""
    of_case: dict[str, list[Problem]] = {}
    for problem in problems:
        for name in dict.fromkeys(problem.cases):
            of_case.setdefault(name, []).append(problem)
    return [Failure(case=name, problems=tuple(found)) for name, found in of_case.items()]


def _list_segments(labels: LabelScheme, terms: Mapping[str, ClassTerms]) -> tuple[Segment, ...]:
    """Lists the classes with their terms; names of classes without terms are terms of a private scheme."""
    segments = []
    for index, entry in enumerate(labels.classes, start=1):
        known = terms.get(entry.name)
        own = Code(scheme=PRIVATE_SCHEME, value=f"CLASS{index}", meaning=_make_text(entry.name))
        term = own if known is None else _build_code(known.type)
        category = STRUCTURE if known is None or known.category is None else _build_code(known.category)
        segments.append(Segment(name=_make_text(entry.name), values=entry.values, category=category, term=term))
    return tuple(segments)


def _build_code(term: CodedTerm) -> Code:
    return Code(scheme=term.scheme, value=term.value, meaning=term.meaning)


def _make_text(name: str) -> str:
    """Returns a name as elements of DICOM hold it, in which a backslash would begin another value."""
    return "".join(letter for letter in name if letter.isprintable() and letter != "\\")[:64] or "class"
