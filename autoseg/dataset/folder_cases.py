"""Cases from the folders imagesTr and labelsTr."""

from pathlib import Path
from typing import Final

from autoseg.dataset.cases import Case, Findings
from autoseg.dataset.files import (
    ChannelFiles,
    check_channels,
    describe_endings,
    find_endings,
    get_stem,
    group_channels,
    list_files,
    select_ending,
)
from autoseg.document import suggest_key
from autoseg.file_endings import label_map_ending

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
    labels = _find_labels(root / LABELS, label_map_ending(ending))
    images = list_folder(root / IMAGES)
    chosen = select_ending(images, ending)
    if are_there[0] and not chosen:
        findings.problems.append(f"{IMAGES} holds no file ending in {ending}; it holds {describe_endings(images)}")
    _note_other_endings(images, ending, findings)
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
        _check_labels(groups, labels, ending=label_map_ending(ending), findings=findings)
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


def _find_labels(folder: Path, ending: str) -> dict[str, Path]:
    return {get_stem(path, ending): path for path in select_ending(list_folder(folder), ending)}


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
