"""Cases from the folders imagesTr and labelsTr."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from autoseg.dataset.cases import Case, Findings
from autoseg.dataset.files import (
    CHANNEL_NAME,
    FOLDER_ADVICE,
    ChannelFiles,
    check_channels,
    describe_endings,
    find_endings,
    get_stem,
    group_channels,
    list_files,
    list_subfolders,
    select_ending,
)
from autoseg.document import suggest_key
from autoseg.file_endings import list_reference_endings

IMAGES: Final = "imagesTr"
LABELS: Final = "labelsTr"
ANY_CHANNEL_COUNT: Final = 10_000  # more than four digits can number


def list_folder(folder: Path) -> list[Path]:
    """Files of a folder; none if it does not exist."""
    return list_files(folder) if folder.is_dir() else []


def find_folder_cases(
    root: Path, channel_names: tuple[str, ...] | None, *, ending: str, findings: Findings
) -> tuple[Case, ...]:
    """Pairs images with label maps; `channel_names` is None if dataset.json does not tell them."""
    are_there = [_check_folder(root, name, findings) for name in (IMAGES, LABELS)]
    endings = list_reference_endings(ending)
    labels = _find_labels(root / LABELS, endings, findings)
    images = list_folder(root / IMAGES)
    chosen = select_ending(images, ending)
    if are_there[0] and not chosen:
        findings.problems.append(f"{IMAGES} holds no file ending in {ending}; it holds {describe_endings(images)}")
    _note_other_endings(images, ending, findings)
    if are_there[0]:
        _report_subfolders(root / IMAGES, labels.keys(), has_images=bool(chosen), findings=findings)
    groups = group_channels(
        chosen,
        ending,
        channel_count=ANY_CHANNEL_COUNT if channel_names is None else len(channel_names),
        label_names=labels.keys(),
        findings=findings,
    )
    _check_links(groups, findings)
    if channel_names is not None:
        check_channels(groups, channel_names=channel_names, ending=ending, findings=findings)
    if are_there[1]:
        _check_labels(groups, labels, ending=endings[0], findings=findings)
    return tuple(
        Case(name=name, image_paths=tuple(path for _, path in sorted(files.items())), label_path=labels.get(name))
        for name, files in groups.items()
    )


def _check_folder(root: Path, name: str, findings: Findings) -> bool:
    if (root / name).is_dir():
        return True
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    findings.problems.append(f"the folder {name} is missing{suggest_key(name, folders)}")
    return False


def _find_labels(folder: Path, endings: tuple[str, ...], findings: Findings) -> dict[str, Path]:
    labels: dict[str, Path] = {}
    files = list_folder(folder)
    for ending in endings:
        for path in select_ending(files, ending):
            first = labels.setdefault(get_stem(path, ending), path)
            if first != path and len(endings) > 1:
                findings.problems.append(
                    f"case {get_stem(path, ending)}: two label maps, {first.name} and {path.name}; remove one"
                )
    return labels


def _report_subfolders(folder: Path, label_names: Collection[str], *, has_images: bool, findings: Findings) -> None:
    """A folder that stands for a case, as a DICOM series does, is a problem; others are mentioned."""
    for path in list_subfolders(folder):
        match = CHANNEL_NAME.fullmatch(path.name)
        if not has_images or path.name in label_names or (match and match["case"] in label_names):
            findings.problems.append(f"{IMAGES}/{path.name} is a folder; {FOLDER_ADVICE}")
        else:
            findings.notes.append(f"{IMAGES}/{path.name} is a folder and not used")


def _check_labels(groups: dict[str, ChannelFiles], labels: dict[str, Path], *, ending: str, findings: Findings) -> None:
    for name in groups:
        if name not in labels:
            findings.problems.append(f"case {name}: the label map {LABELS}/{name}{ending} is missing")
        elif not labels[name].exists():
            findings.problems.append(f"case {name}: {labels[name]} is a link to a file that does not exist")
    for name in sorted(labels.keys() - groups.keys()):
        findings.notes.append(f"{LABELS}/{labels[name].name} has no image in {IMAGES} and is not used")


def _check_links(groups: dict[str, ChannelFiles], findings: Findings) -> None:
    for name, files in groups.items():
        for path in files.values():
            if not path.exists():
                findings.problems.append(f"case {name}: {path} is a link to a file that does not exist")


def _note_other_endings(images: list[Path], ending: str, findings: Findings) -> None:
    others = {other: count for other, count in find_endings(images).items() if other != ending}
    if others and len(others) < len(find_endings(images)):
        listed = ", ".join(f"{count} x {other}" for other, count in sorted(others.items()))
        findings.notes.append(f"{IMAGES} also holds images with other endings, which are not used: {listed}")
