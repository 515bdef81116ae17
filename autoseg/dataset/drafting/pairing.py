"""Pairs label maps with images by the names of files and folders alone.

Ambiguous names are reported as problems and never guessed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from autoseg.dataset.drafting.name_parts import CaseKey, NameParts

SEPARATORS: Final = "_-. "


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCase:
    """A case found by the names of its files.

    Attributes:
        images: The images in no particular order.
        masks: Label files by structure; a single one may have an empty name.
    """

    images: tuple[NameParts, ...]
    masks: Mapping[str, NameParts]


@dataclass(slots=True, kw_only=True)
class Pairing:
    """Cases, problems and unused files of a folder.

    Attributes:
        problems: Ambiguous names.
        left_out: The reason why a file, or the first of several, is not used, by path.
        ways: Number of label maps by the rule that paired them.
    """

    cases: list[PairedCase] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    ways: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The image to which a label file belongs.

    Attributes:
        stem: The stem of the image, if one of several is meant; None for all of them.
        structure: The structure in the label file, if its name contains one.
        is_named: False where only the folder of the label file identifies its image, whatever its name.
    """

    key: CaseKey
    stem: str | None = None
    structure: str = ""
    is_named: bool = True


class Images:
    """Images indexed by the keys that label files are compared with."""

    def __init__(self, images: Sequence[NameParts]) -> None:
        self.by_case: dict[CaseKey, list[NameParts]] = {}
        self.by_stem: dict[CaseKey, list[NameParts]] = {}
        self.cases_in: dict[tuple[str, ...], set[CaseKey]] = {}
        for image in images:
            self.by_case.setdefault(image.case_key, []).append(image)
            self.by_stem.setdefault(image.stem_key, []).append(image)
            self.cases_in.setdefault(image.folders, set()).add(image.case_key)

    def select(self, match: Match) -> list[NameParts]:
        """Returns the images of a match."""
        return self.by_case[match.key] if match.stem is None else self.by_stem[match.key[0], match.stem]

    def list_paths(self, match: Match) -> tuple[str, ...]:
        """Returns the paths of the images of a match, ascending."""
        return tuple(sorted(image.path for image in self.select(match)))


def match_same_name(label: NameParts, images: Images) -> Match | None:
    """Matches images/a.png and labels/a.png, a_image and a_label, a_T1w and a_T1w_seg (and not a_T2w)."""
    found = images.by_stem.get(label.stem_key)
    return None if not found else Match(key=found[0].case_key, stem=found[0].stem)


def match_same_case(label: NameParts, images: Images) -> Match | None:
    """Matches a_0000, a_0001 or a_t1, a_flair with a or a_seg."""
    return Match(key=label.stem_key) if label.stem_key in images.by_case else None


def match_case_folder(label: NameParts, images: Images) -> Match | None:
    """Matches s0001/ct.nii.gz and s0001/segmentations/liver.nii.gz, a.nii.gz and masks/a/liver.nii.gz."""
    if not label.folders:
        return None
    keys = ((label.folders, ""), (label.folders[:-1], label.folders[-1]))
    key = next((key for key in keys if key in images.by_case), None)
    return None if key is None or not label.stem else Match(key=key, structure=label.stem)


def match_structure_in_name(label: NameParts, images: Images) -> Match | None:
    """Matches a.nii.gz or a_ct.nii.gz with a_liver.nii.gz, and a_T2w.nii.gz with a_T2w_liver.nii.gz."""
    for end in range(len(label.stem) - 1, 0, -1):
        if label.stem[end] in SEPARATORS:
            beginning = replace(label, stem=label.stem[:end])
            match = match_same_name(beginning, images) or match_same_case(beginning, images)
            if match is not None:
                return replace(match, structure=label.stem[end + 1 :])
    return None


def match_structure_folder(label: NameParts, images: Images) -> Match | None:
    """Matches images/a.png and masks/liver/a.png."""
    for index, folder in enumerate(label.folders):
        others = (*label.folders[:index], *label.folders[index + 1 :])
        found = replace(label, folders=others)
        match = match_same_name(found, images) or match_same_case(found, images)
        if match is not None:
            return replace(match, structure=folder)
    return None


def match_only_image(label: NameParts, images: Images) -> Match | None:
    """Matches p1/anything.nii.gz, the only image of its folder, and p1/mask.nii.gz."""
    keys = images.cases_in.get(label.folders, set())
    if not label.folders or len(keys) != 1:
        return None
    return Match(key=next(iter(keys)), structure=label.stem, is_named=False)


UNUSED: Final = {
    "unused": "kept for tests, or a derivative that is no label map by its name",
    "unknown": "neither in a folder of images nor in one of label maps",
}

WAYS: Final[tuple[tuple[str, Callable[[NameParts, Images], Match | None]], ...]] = (
    ("same name", match_same_name),
    ("same name without channel", match_same_case),
    ("files for each structure in a folder of the case", match_case_folder),
    ("structure at the end of the name", match_structure_in_name),
    ("folder for each structure", match_structure_folder),
    ("only image of the folder", match_only_image),
)
"""Rules in the order in which they are tried; the first match counts."""


def pair_by_name(files: Sequence[NameParts]) -> Pairing:
    """Pairs images and label files to cases."""
    pairing = Pairing()
    images, labels = _sort_by_role(files, pairing)
    found: dict[tuple[str, ...], list[tuple[Match, NameParts]]] = {}
    unmatched = []
    for label in labels:
        match = _match(label, images, pairing)
        if match is None:
            unmatched.append(label)
        else:
            found.setdefault(images.list_paths(match), []).append((match, label))
    ambiguities: dict[tuple[str, ...], list[str]] = {}
    for matches in _drop_accidental_structures(_join_overlapping(found)):
        _add_case(images, matches, pairing, ambiguities)
    pairing.problems += [_describe_ambiguity(lines) for lines in ambiguities.values()]
    _report_unmatched(labels, unmatched, pairing)
    used = {path for paths in found for path in paths}
    for path in (image.path for group in images.by_case.values() for image in group if image.path not in used):
        pairing.left_out[path] = "no label map belongs to it"
    return pairing


def describe_pattern(file: NameParts) -> str:
    """Returns the path with `*` for the parts that differ between cases, as for --images and --labels."""
    *folders, name = file.path.split("/")
    own = set(file.folders)
    shown = ["*" if folder in own else folder for folder in folders]
    place = name.find(file.base) if file.base else -1
    pattern = name if place < 0 else f"{name[:place]}*{name[place + len(file.base) :]}"
    return "/".join([*shown, pattern])


def _sort_by_role(files: Sequence[NameParts], pairing: Pairing) -> tuple[Images, list[NameParts]]:
    """Sorts files by role. Files of unknown role are images, unless there are image folders or they name structures."""
    labels = [file for file in files if file.role == "label"]
    images = [file for file in files if file.role == "image"]
    unknown = [file for file in files if file.role == "unknown"]
    has_folders = any(image.in_role_folder for image in images)
    for file in files:
        if file.role == "unused" or (file.role == "unknown" and has_folders):
            pairing.left_out[file.path] = UNUSED[file.role]
    if has_folders:
        return Images(images), labels
    candidates = Images([*images, *unknown])
    own_labels = {match.key for label in labels if (match := match_same_name(label, candidates))}
    for file in unknown:
        is_structure = not file.channel and file.case_key not in own_labels and _continues_image(file, candidates)
        (labels if is_structure else images).append(file)
    return Images(images), labels


def _continues_image(file: NameParts, candidates: Images) -> bool:
    match = match_case_folder(file, candidates) or match_structure_in_name(file, candidates)
    return match is not None and match.key != file.case_key and match.structure[0].isalpha()


def _match(label: NameParts, images: Images, pairing: Pairing) -> Match | None:
    for way, function in WAYS:
        match = function(label, images)
        if match is not None:
            pairing.ways[way] = pairing.ways.get(way, 0) + 1
            return match
    return None


def _join_overlapping(
    found: Mapping[tuple[str, ...], list[tuple[Match, NameParts]]],
) -> list[list[tuple[Match, NameParts]]]:
    """Joins the label files of the same images, and those of one image with those of its whole case."""
    groups: list[tuple[set[str], list[tuple[Match, NameParts]]]] = []
    by_path: dict[str, int] = {}
    for paths, matches in sorted(found.items(), key=lambda entry: -len(entry[0])):
        index = next((by_path[path] for path in paths if path in by_path), len(groups))
        if index == len(groups):
            groups.append((set(), []))
        groups[index][0].update(paths)
        groups[index][1].extend(matches)
        by_path |= dict.fromkeys(paths, index)
    return [matches for _, matches in groups]


def _add_case(
    images: Images,
    matches: Sequence[tuple[Match, NameParts]],
    pairing: Pairing,
    ambiguities: dict[tuple[str, ...], list[str]],
) -> None:
    chosen = images.select(matches[0][0])
    channels = [image.channel for image in chosen]
    twice = [image for image in chosen if channels.count(image.channel) > 1]
    structures = [match.structure for match, _ in matches]
    labels = [label for _, label in matches]
    if twice:
        _note_ambiguity(labels[0], twice, ambiguities)
    elif len(matches) > 1 and ("" in structures or len(set(structures)) < len(structures)):
        _note_ambiguity(chosen[0], labels, ambiguities)
    else:
        masks = {match.structure: label for match, label in sorted(matches, key=lambda entry: entry[0].structure)}
        pairing.cases.append(PairedCase(images=_undo_channel(matches[0][0], chosen), masks=masks))


def _undo_channel(match: Match, images: Sequence[NameParts]) -> tuple[NameParts, ...]:
    """Treats digits as part of the case's name, not as a channel, if the label map's name has them as well."""
    if match.stem is None or not images[0].channel.isdecimal():
        return tuple(images)
    (image,) = images
    return (replace(image, base=image.stem, name=f"{image.name}_{image.channel}", channel=""),)


def _note_ambiguity(
    file: NameParts, candidates: Sequence[NameParts], ambiguities: dict[tuple[str, ...], list[str]]
) -> None:
    """Collects ambiguities by the pattern of the names, so that a thousand similar images become one problem."""
    what = "label maps" if candidates[0].role == "label" or file.role == "image" else "images"
    shown = " or ".join(sorted(candidate.path for candidate in candidates))
    kind = (describe_pattern(file), *sorted(describe_pattern(candidate) for candidate in candidates))
    ambiguities.setdefault(kind, []).append(f"{file.path}: {len(candidates)} {what} could belong to it: {shown}")


def _describe_ambiguity(lines: Sequence[str]) -> str:
    return lines[0] if len(lines) == 1 else f"{lines[0]}; and {len(lines) - 1} others of such names"


def _report_unmatched(labels: Sequence[NameParts], unmatched: Sequence[NameParts], pairing: Pairing) -> None:
    """Leaves out single label maps without image; if all of one pattern lack one, that is a problem."""
    paths = {label.path for label in unmatched}
    kinds: dict[str, list[NameParts]] = {}
    for label in labels:
        kinds.setdefault(describe_pattern(label), []).append(label)
    for pattern, members in kinds.items():
        lost = [label for label in members if label.path in paths]
        if len(lost) == len(members):
            pairing.problems.append(f"{pattern}: no image belongs to {_count(lost)}, the first is {lost[0].path}")
        for label in lost:
            pairing.left_out[label.path] = "no image belongs to it"


def _drop_accidental_structures(
    groups: Sequence[Sequence[tuple[Match, NameParts]]],
) -> list[list[tuple[Match, NameParts]]]:
    """Ignores structures in names that differ for every case, where only the folder identifies the image."""
    names = [match.structure for matches in groups for match, _ in matches if not match.is_named]
    is_single = all(len(matches) == 1 for matches in groups)
    is_accidental = len(names) > 1 and is_single and len(set(names)) == len(names)
    return [
        [
            (match if match.is_named or not is_accidental else replace(match, structure=""), label)
            for match, label in matches
        ]
        for matches in groups
    ]


def _count(files: Sequence[NameParts]) -> str:
    return "its only file" if len(files) == 1 else f"its {len(files)} files"
