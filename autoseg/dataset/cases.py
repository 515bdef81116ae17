"""A dataset that was read, and the findings that are collected while it is being read."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from autoseg.document import NamedItems, PackedSequence
from autoseg.errors import DatasetError, Problem, group_problems
from autoseg.labels import ClassTerms, InstanceTargets, LabelScheme
from autoseg.untrusted.names import describe_name, find_equal_names, find_name_problem, suggest_name

DESCRIPTION_NAME: Final = "dataset.json"
SPLITS_NAME: Final = "splits_final.json"
GROUPS_NAME: Final = "groups.json"
INSTANCES: Final = "instancesTr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One subject or picture. Paths are kept as texts, which take a quarter of the memory.

    Attributes:
        images: One file per channel (or folder of DICOM slices), or a single file that holds all channels.
        label: None where no reference is known.
        instances: Label map that numbers the objects of the case, in the folder instancesTr, or a folder there with a
            label map for each; None without one.
        fix_geometry: Whether channels and label maps on another grid than the first channel's are resampled onto it
            instead of being refused.
        targets: Core and border of objects, which replace the labels of the label map; None: those are learned.
    """

    name: str
    images: tuple[str, ...]
    label: str | None
    fix_geometry: bool = False
    instances: str | None = None
    targets: InstanceTargets | None = None

    @classmethod
    def from_paths(cls, name: str, *, images: Iterable[Path], label: Path | None) -> "Case":
        """Builds a case from its files."""
        return cls(name=name, images=tuple(map(str, images)), label=None if label is None else str(label))

    @property
    def image_paths(self) -> tuple[Path, ...]:
        """Paths of the images."""
        return tuple(map(Path, self.images))

    @property
    def label_path(self) -> Path | None:
        """Path of the label map."""
        return None if self.label is None else Path(self.label)

    @property
    def instances_path(self) -> Path | None:
        """Path of the label map of numbered objects, or of the folder of single ones."""
        return None if self.instances is None else Path(self.instances)


@dataclass(frozen=True, slots=True)
class CaseCodec:
    """Packs cases, whose files have most of their paths in common.

    Attributes:
        root: Beginning of a path that is not kept.
        ways: Ways of reading cases, mostly one: whether geometry is fixed, and the targets.
    """

    root: str
    ways: list[tuple[bool, InstanceTargets | None]] = field(default_factory=list)

    def pack(self, case: Case) -> tuple[Any, ...]:
        """Returns name and paths, and the number of the way in which they are read."""
        way = case.fix_geometry, case.targets
        if way not in self.ways:
            self.ways.append(way)
        images = tuple(map(self._shorten, case.images))
        return case.name, images, self._shorten(case.label), self._shorten(case.instances), self.ways.index(way)

    def unpack(self, packed: Any) -> Case:
        """Builds the case anew."""
        name, images, label, instances, way = packed
        fix_geometry, targets = self.ways[way]
        return Case(
            name=name,
            images=tuple(map(self._complete, images)),
            label=None if label is None else self._complete(label),
            instances=None if instances is None else self._complete(instances),
            fix_geometry=fix_geometry,
            targets=targets,
        )

    def _shorten(self, path: str | None) -> str | tuple[str] | None:
        """Returns the rest of a path in the root; any other path in a tuple."""
        if path is None:
            return None
        return path[len(self.root) :] if path.startswith(self.root) else (path,)

    def _complete(self, shortened: str | tuple[str]) -> str:
        return self.root + shortened if isinstance(shortened, str) else shortened[0]


def pack_cases(root: Path, cases: Iterable[Case]) -> PackedSequence[Case]:
    """Packs the cases of a dataset, most of whose files are in its folder."""
    return PackedSequence(CaseCodec(f"{root}{os.sep}"), cases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A labelled dataset. The number of channels in a file is not known before it is read.

    Attributes:
        name: The folder's name.
        file_ending: Ending of the images in lower case.
        splits_file: Folds that came with the dataset (splits_final.json), or None.
        groups_file: Groups of cases that belong together (groups.json), or None.
        notes: Peculiarities that are not errors, one sentence each.
        terms: Coded terms of classes, by their names, for results in DICOM.
    """

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: LabelScheme
    file_ending: str
    cases: Sequence[Case]
    splits_file: Path | None
    groups_file: Path | None
    notes: tuple[str, ...]
    terms: dict[str, ClassTerms] = field(default_factory=dict)

    @property
    def jobs(self) -> NamedItems[Case]:
        """All cases with their names."""
        return NamedItems(self.cases, attrgetter("name"))

    @property
    def fixes_geometry(self) -> bool:
        """Whether files on another grid are resampled."""
        return any(case.fix_geometry for case in self.cases)

    @property
    def targets(self) -> InstanceTargets | None:
        """Core and border of objects that are learned; None for the labels themselves."""
        return next((case.targets for case in self.cases), None)

    @property
    def declared_labels(self) -> LabelScheme:
        """The labels of its label maps, as dataset.json names them."""
        return self.labels if self.targets is None else self.targets.labels

    @property
    def has_instances(self) -> bool:
        """Whether every case has a label map of numbered objects."""
        return all(case.instances_path is not None for case in self.cases)


def allow_geometry_fixes(dataset: Dataset) -> Dataset:
    """Returns a dataset whose files are resampled on reading if they lie on another grid than their first channel."""
    return _change_cases(dataset, fix_geometry=True)


def tell_instances_apart(dataset: Dataset, border_fraction: float, *, centre_steps: int = 0) -> Dataset:
    """Returns the dataset with core and border of numbered objects as its labels.

    Args:
        dataset: A dataset with plain labels.
        border_fraction: Width of the border as a fraction of the largest distance of the object from its surface.
        centre_steps: Steps of the centre distance; 0: it is not learned.

    Raises:
        DatasetError: Cases have no file that numbers their objects, or the labels are regions.
    """
    problems = [
        Problem(
            text=f"{INSTANCES} holds no file of this case; expected {INSTANCES}/{case.name}.* or "
            f"{INSTANCES}/{case.name}/",
            cases=(case.name,),
        )
        for case in dataset.cases
        if case.instances_path is None
    ]
    if dataset.labels.has_regions:
        problems.append(
            Problem(text=f"labels of {DESCRIPTION_NAME} are regions; instances need labels that exclude each other")
        )
    if problems:
        heading = f"{dataset.name}: objects cannot be told apart; correct this, or plan without --task instances:"
        raise DatasetError(heading, group_problems(problems))
    targets = InstanceTargets(labels=dataset.labels, border_fraction=border_fraction, centre_steps=centre_steps)
    return learn_targets(dataset, targets)


def learn_targets(dataset: Dataset, targets: InstanceTargets) -> Dataset:
    """Returns the dataset whose cases are read with core and border of their objects as labels."""
    return replace(_change_cases(dataset, targets=targets), labels=targets.target_labels)


def _change_cases(dataset: Dataset, **changes: Any) -> Dataset:
    return replace(dataset, cases=pack_cases(dataset.root, (replace(case, **changes) for case in dataset.cases)))


def find_optional_file(root: Path, name: str) -> Path | None:
    """Returns the path of an optional file of the dataset; None if it does not exist."""
    path = root / name
    return path if path.is_file() else None


PREVIOUS_STAGE_SUFFIX: Final = ".previous"  # of the files of a case that hold what its previous stage predicts


@dataclass(slots=True)
class Findings:
    """Collects all problems, so that they are reported at once.

    Attributes:
        problems: Problems of the dataset as a whole.
        notes: Notes about the dataset as a whole.
        of_cases: Problems of single cases.
        notes_of_cases: Notes about single cases.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    of_cases: list[Problem] = field(default_factory=list)
    notes_of_cases: list[Problem] = field(default_factory=list)

    def add_to_case(self, case: str, problem: str) -> None:
        """Adds a problem of one case."""
        self.of_cases.append(Problem(text=problem, cases=(case,)))

    def add_note_to_case(self, case: str, note: str) -> None:
        """Adds a note about one case."""
        self.notes_of_cases.append(Problem(text=note, cases=(case,)))

    def list_problems(self) -> tuple[Problem, ...]:
        """Returns all problems, those of the dataset first."""
        return (*(Problem(text=text) for text in self.problems), *self.of_cases)

    def describe_notes(self) -> tuple[str, ...]:
        """Returns all notes; a note that several cases share appears once, and each names its cases."""
        shared = group_problems(self.notes_of_cases)
        return (*self.notes, *(note.text if _names_its_case(note) else note.describe() for note in shared))


def _names_its_case(note: Problem) -> bool:
    return len(note.cases) == 1 and note.cases[0] in note.text


def check_case_names(cases: Sequence[Case], findings: Findings, *, are_files: bool) -> None:
    """Checks that the names of cases can be names of files in the run.

    Args:
        cases: Cases of one dataset.
        findings: Receives a problem for every name that cannot.
        are_files: Whether the names are those of existing files, so that this system distinguishes their capitals.
    """
    names = dict.fromkeys(case.name for case in cases)
    for name in names:
        problem = find_name_problem(name)
        if problem is not None:
            findings.add_to_case(
                describe_name(name),
                f"no file of the run can have this name: {problem}; call the case {suggest_name(name)!r}",
            )
        elif name.removesuffix(PREVIOUS_STAGE_SUFFIX) in names and name.endswith(PREVIOUS_STAGE_SUFFIX):
            findings.add_to_case(
                name, f"files of {name.removesuffix(PREVIOUS_STAGE_SUFFIX)} in the run have this name; rename the case"
            )
    for equal in find_equal_names(names):
        shown = " and ".join(map(describe_name, equal))
        if are_files:
            findings.notes.append(f"{shown} differ in capitals alone: this run cannot be moved to Windows or macOS")
        else:
            findings.add_to_case(equal[1], f"{shown} are one name on Windows and macOS; rename one")
