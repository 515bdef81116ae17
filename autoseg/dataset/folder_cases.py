"""Finds cases in the folders imagesTr and labelsTr."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from autoseg.dataset.cases import INSTANCES, Case, Findings, pack_cases
from autoseg.dataset.files import (
    CHANNEL_NAME,
    ChannelFiles,
    check_channels,
    check_links,
    describe_endings,
    explain_missing_file,
    find_endings,
    get_stem,
    group_channels,
    list_misnamed_folders,
    list_names,
    list_subfolders,
    report_second_files,
    select_ending,
)
from autoseg.dicom_files import FOLDER_ADVICE, explain_dicom, is_series_folder
from autoseg.document import PackedSequence, suggest_key
from autoseg.file_endings import (
    HEADER_OF_VOXELS,
    LOSSY_ENDINGS,
    find_ending,
    list_reference_endings,
    strip_label_map_ending,
)

IMAGES: Final = "imagesTr"
LABELS: Final = "labelsTr"
ANY_CHANNEL_COUNT: Final = 10_000  # more than four digits can number


def list_folder(folder: Path) -> list[str]:
    """Lists the names of the files of a folder; none if it does not exist."""
    return list_names(folder) if folder.is_dir() else []


def list_object_files(folder: Path) -> list[Path]:
    """Lists the label maps of a folder that may number objects, or hold one each."""
    return [folder / name for name in _list_object_names(folder)]


def _list_object_names(folder: Path) -> list[str]:
    unfit = (None, *LOSSY_ENDINGS, *HEADER_OF_VOXELS.values())
    return [name for name in list_folder(folder) if find_ending(name) not in unfit]


def attach_instances(root: Path, cases: Sequence[Case], findings: Findings | None = None) -> PackedSequence[Case]:
    """Adds the label maps of numbered objects, or folders with one for each, by the names of cases; all or none count.

    Args:
        findings: Receives a note where some cases lack one; None: no note is needed.
    """
    folder = root / INSTANCES
    folders = {path.name: str(path) for path in list_subfolders(folder)} if folder.is_dir() else {}
    files = {strip_label_map_ending(name): str(folder / name) for name in _list_object_names(folder)}
    paths = folders | files  # a folder may be empty, where the image has no object
    attached = pack_cases(root, (replace(case, instances=paths.get(case.name)) for case in cases))
    if findings is not None and paths:
        for case in attached:
            if case.instances_path is None:
                findings.add_note_to_case(
                    case.name, f"{INSTANCES} holds no file of this case, so objects are told apart in no case; add it"
                )
            elif case.name in files and case.name in folders:
                findings.add_to_case(case.name, f"{INSTANCES} holds a file and a folder of this case; remove one")
    return attached


def find_folder_cases(
    root: Path, channel_names: tuple[str, ...] | None, *, ending: str, findings: Findings
) -> PackedSequence[Case]:
    """Pairs images with label maps; `channel_names` is None if dataset.json does not define them."""
    are_there = [_check_folder(root, name, findings) for name in (IMAGES, LABELS)]
    endings = list_reference_endings(ending)
    labels = _find_usual_labels(root / LABELS, endings, findings)
    images = list_folder(root / IMAGES)
    chosen = select_ending(images, ending)
    if are_there[0] and not chosen:
        hint = explain_dicom(root / IMAGES)
        findings.problems.append(
            f"{IMAGES} holds no file ending in {ending}; it holds {describe_endings(images)}{hint}"
        )
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
    report_second_files(root / IMAGES, images, ((name, files.values()) for name, files in groups.items()), findings)
    check_links(root / IMAGES, groups, findings)
    labels |= _find_other_labels(root / LABELS, {name for name in groups if name not in labels}, endings, findings)
    if channel_names is not None:
        check_channels(groups, channel_names=channel_names, ending=ending, findings=findings)
    if are_there[1]:
        _check_labels(groups, labels, folder=root / LABELS, ending=endings[0], findings=findings)
        _explain_lack_of_labels(root / LABELS, {name for name in groups if name not in labels}, findings)
    del images, chosen
    return pack_cases(root, (_build_case(root, name, files, labels.get(name)) for name, files in groups.items()))


def _build_case(root: Path, name: str, files: ChannelFiles, label: str | None) -> Case:
    return Case.from_paths(
        name,
        images=(root / IMAGES / file for _, file in sorted(files.items())),
        label=None if label is None else root / LABELS / label,
    )


def _check_folder(root: Path, name: str, findings: Findings) -> bool:
    if (root / name).is_dir():
        return True
    folders = [path.name for path in root.iterdir() if path.is_dir()]
    findings.problems.append(f"the folder {name} is missing{suggest_key(name, folders)}")
    return False


def _find_usual_labels(folder: Path, endings: tuple[str, ...], findings: Findings) -> dict[str, str]:
    """Returns label maps by name whose endings are the usual ones for these images."""
    labels: dict[str, str] = {}
    files = list_folder(folder)
    for ending in endings:
        for file in select_ending(files, ending):
            name = strip_label_map_ending(file)
            first = labels.setdefault(name, file)
            if first != file:
                findings.add_to_case(name, f"two label maps, {first} and {file}; remove one")
    report_second_files(folder, files, ((name, (file,)) for name, file in labels.items()), findings)
    return labels


def _find_other_labels(
    folder: Path, names: Collection[str], usual: tuple[str, ...], findings: Findings
) -> dict[str, str]:
    """Returns label maps with other endings for cases without a label map of a usual ending."""
    found: dict[str, dict[str, str]] = {}
    for file in list_folder(folder) if names else ():
        ending, name = find_ending(file), strip_label_map_ending(file)
        if ending is not None and name in names and ending not in LOSSY_ENDINGS:
            found.setdefault(name, {})[ending] = file
    labels = {}
    for name, files in found.items():
        headers = [file for ending, file in files.items() if HEADER_OF_VOXELS.get(ending) not in files]
        labels[name], *others = headers
        if others:
            findings.add_to_case(name, f"two label maps, {labels[name]} and {others[0]}; remove one")
        findings.add_note_to_case(name, f"{LABELS}/{labels[name]} is used, though it does not end in {usual[0]}")
    return labels


def _report_subfolders(folder: Path, label_names: Collection[str], *, has_images: bool, findings: Findings) -> None:
    """Reports a subfolder in place of a case, such as a DICOM series, as a problem, and others as notes."""
    misnamed = list_misnamed_folders(folder)
    for path in misnamed:
        findings.add_to_case(
            path.name, f"{IMAGES}/{path.name} is a folder, though named like an image; restore the image"
        )
    for path in list_subfolders(folder):
        match = CHANNEL_NAME.fullmatch(path.name)
        if path in misnamed or (is_series_folder(path) and has_images):
            continue
        if not has_images or path.name in label_names or (match and match["case"] in label_names):
            name = match["case"] if match else path.name
            findings.add_to_case(name, f"{IMAGES}/{path.name} is a folder; {FOLDER_ADVICE}")
        else:
            findings.add_note_to_case(path.name, f"{IMAGES}/{path.name} is a folder and not used")


def _check_labels(
    groups: dict[str, ChannelFiles], labels: dict[str, str], *, folder: Path, ending: str, findings: Findings
) -> None:
    folders = {strip_label_map_ending(path.name) for path in list_misnamed_folders(folder)}
    for name in groups:
        if name not in labels:
            is_folder = f"; {LABELS}/{name}{ending} is a folder" if name in folders else ""
            findings.add_to_case(name, f"the label map {LABELS}/{name}{ending} is missing{is_folder}")
        elif not (folder / labels[name]).is_file():
            findings.add_to_case(name, explain_missing_file(folder / labels[name]))
    for name in sorted(name for name in labels if name not in groups):
        findings.add_note_to_case(name, f"{LABELS}/{labels[name]} has no image in {IMAGES} and is not used")


def _explain_lack_of_labels(folder: Path, missing: Collection[str], findings: Findings) -> None:
    """Explains why label maps are missing although files of their names exist."""
    lossy = [name for name in list_folder(folder) if find_ending(name) in LOSSY_ENDINGS]
    lossy = [name for name in lossy if get_stem(name, find_ending(name) or "") in missing]
    if lossy:
        findings.problems.append(
            f"{LABELS} holds {len(lossy)} x JPEG ({lossy[0]}), which changes label values on saving; save label maps "
            f"as PNG"
        )
    hint = explain_dicom(folder) if missing else ""
    if hint:
        findings.problems.append(f"{LABELS} lacks label maps{hint}")


def _note_other_endings(images: list[str], ending: str, findings: Findings) -> None:
    others = {other: count for other, count in find_endings(images).items() if other != ending}
    if others and len(others) < len(find_endings(images)):
        listed = ", ".join(f"{count} x {other}" for other, count in sorted(others.items()))
        findings.notes.append(f"{IMAGES} also holds images with other endings, which are not used: {listed}")
