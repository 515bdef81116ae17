"""Keys and values of dataset.json. The files of the cases are found by `folder_cases` and `listed_cases`."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from autoseg.dataset.cases import DESCRIPTION_NAME, Findings
from autoseg.dataset.label_entries import parse_labels
from autoseg.dataset.terms import parse_terms
from autoseg.dicom_files import explain_dicom
from autoseg.document import suggest_key
from autoseg.errors import DocumentError
from autoseg.file_endings import READABLE_ENDINGS, normalize_ending
from autoseg.labels import ClassTerms, LabelScheme
from autoseg.untrusted.json_reading import read_json

USED_KEYS: Final = (
    "labels",
    "channel_names",
    "modality",
    "file_ending",
    "regions_class_order",
    "terms",
    "dataset",
    "training",
    "numTraining",
)
IGNORED_KEYS: Final = (
    "name",
    "description",
    "reference",
    "licence",
    "license",
    "release",
    "relase",  # so spelt in the archives of the Medical Segmentation Decathlon
    "converted_by",
    "citation",
    "tensorImageSize",
    "dim",
    "numTest",
    "test",
    "overwrite_image_reader_writer",
    "author",
    "authors",
    "version",
    "url",
)
CLOSE_MATCH: Final = 0.6
MOST_UNKNOWN_KEYS: Final = 100  # more are no misspellings
INIT_ADVICE: Final = "; check the path, or write one for a folder of images and label maps with: autoseg init FOLDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedCase:
    """A case whose files dataset.json lists; without a name, it has that of its label map."""

    name: str | None
    images: tuple[str, ...]
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The content of dataset.json; None where an entry is missing or wrong, which is also reported as a problem.

    Attributes:
        listed_cases: Entries of the key `dataset`, or of `training` in the Decathlon's layout; None to look into the
            folders.
        terms: Coded terms of classes, by their names.
    """

    channel_names: tuple[str, ...] | None
    labels: LabelScheme | None
    file_ending: str | None
    must_find_ending: bool
    training_count: int | None
    listed_cases: tuple[ListedCase, ...] | None
    terms: dict[str, ClassTerms]


def read_dataset_json(root: Path, findings: Findings) -> Description | None:
    """Reads dataset.json; None if it is no JSON object."""
    path = root / DESCRIPTION_NAME
    if not path.is_file():
        hint = _suggest_folder(root) or explain_dicom(root) or INIT_ADVICE
        findings.problems.append(f"{DESCRIPTION_NAME} is missing{hint}")
        return None
    try:
        content = read_json(path)
    except DocumentError as error:
        findings.problems.append(str(error))
        return None
    if not isinstance(content, dict):
        findings.problems.append(f"{DESCRIPTION_NAME} must hold an object in braces, found {type(content).__name__}")
        return None
    return _parse(content, findings)


def _suggest_folder(root: Path) -> str:
    inside = sorted(path.parent.name for path in root.glob(f"*/{DESCRIPTION_NAME}"))
    return f"; there is one in {', '.join(inside[:5])}: name that folder" if inside else ""


def _parse(content: dict[str, Any], findings: Findings) -> Description:
    unknown = [key for key in content if key not in (*USED_KEYS, *IGNORED_KEYS)]
    suspects = {} if not unknown else _match_missing(content, unknown)
    for key in unknown[:MOST_UNKNOWN_KEYS]:
        if key in suspects.values():
            continue
        hint = suggest_key(key, list(USED_KEYS))
        findings.notes.append(f"{DESCRIPTION_NAME}: unknown key {key!r} is ignored{hint}")
    for wanted, key in suspects.items():
        findings.problems.append(f"{DESCRIPTION_NAME}: unknown key {key!r}: did you mean {wanted!r}?")
    labels = None
    if "labels" in content:
        labels = parse_labels(content["labels"], content.get("regions_class_order"), findings)
    elif "labels" not in suspects:
        findings.problems.append(f"{DESCRIPTION_NAME}: 'labels' is missing; it maps names to values")
    return Description(
        channel_names=_parse_channel_names(content, findings, is_excused="channel_names" in suspects),
        labels=labels,
        file_ending=_parse_file_ending(content.get("file_ending"), findings),
        must_find_ending="file_ending" not in content and "file_ending" not in suspects,
        training_count=_parse_training_count(content, findings),
        listed_cases=_parse_listed_cases(content, findings),
        terms=_parse_terms(content, labels, findings),
    )


def _match_missing(content: dict[str, Any], unknown: list[str]) -> dict[str, str]:
    """Returns missing keys, each with the unknown key that looks like its misspelling."""
    needed = ["labels", "file_ending"]
    if "modality" not in content:
        needed.append("channel_names")
    labels = content.get("labels")
    if isinstance(labels, dict) and any(isinstance(value, list) and len(value) > 1 for value in labels.values()):
        needed.append("regions_class_order")
    matches = {}
    for key in needed:
        closest = difflib.get_close_matches(key, unknown, n=1, cutoff=CLOSE_MATCH)
        if key not in content and closest:
            matches[key] = closest[0]
    return matches


def _parse_channel_names(content: dict[str, Any], findings: Findings, *, is_excused: bool) -> tuple[str, ...] | None:
    key = "channel_names" if "channel_names" in content else "modality"
    if key not in content:
        if not is_excused:
            findings.problems.append(
                f"{DESCRIPTION_NAME}: 'channel_names' is missing; it names the image channels, "
                f'for example {{"0": "CT"}}'
            )
        return None
    names = content[key]
    is_valid = isinstance(names, dict) and names and all(_is_channel_name(name) for name in names.values())
    if not is_valid or sorted(names) != sorted(str(index) for index in range(len(names))):
        findings.problems.append(
            f'{DESCRIPTION_NAME}: {key} must map "0", "1", ... to names, for example {{"0": "CT"}}, found {names!r:.80}'
        )
        return None
    if [int(index) for index in names] != list(range(len(names))):
        findings.notes.append(
            f"{DESCRIPTION_NAME}: {key} are not in ascending order; as in nnU-Net, the first name listed belongs to "
            f"the files _0000, whatever its number says"
        )
    return tuple(str(name) for name in names.values())


def _is_channel_name(name: Any) -> bool:
    """Whether it is a text, or an integer, which nnU-Net 2.0 takes for a name without a meaning."""
    return bool(name) if isinstance(name, str) else isinstance(name, int) and not isinstance(name, bool)


def _parse_file_ending(ending: Any, findings: Findings) -> str | None:
    if ending is None:
        return None
    if not isinstance(ending, str) or normalize_ending(ending) not in READABLE_ENDINGS:
        hint = suggest_key(normalize_ending(str(ending)), list(READABLE_ENDINGS))
        findings.problems.append(
            f"{DESCRIPTION_NAME}: file_ending {ending!r} cannot be read{hint}; "
            f"readable endings: {' '.join(READABLE_ENDINGS)}"
        )
        return None
    return normalize_ending(ending)


def _parse_terms(content: dict[str, Any], labels: LabelScheme | None, findings: Findings) -> dict[str, ClassTerms]:
    names = None if labels is None else [entry.name for entry in labels.classes]
    terms, problems = parse_terms(content.get("terms", {}), names, where=f"{DESCRIPTION_NAME}: terms")
    findings.problems.extend(problems)
    return terms


def _parse_training_count(content: dict[str, Any], findings: Findings) -> int | None:
    count = content.get("numTraining")
    if count is None or (isinstance(count, int) and not isinstance(count, bool)):
        return count
    findings.notes.append(f"{DESCRIPTION_NAME}: numTraining should be an integer, found {count!r:.80}; it is ignored")
    return None


def _parse_listed_cases(content: dict[str, Any], findings: Findings) -> tuple[ListedCase, ...] | None:
    if "dataset" in content:
        return _parse_dataset_key(content["dataset"], findings)
    if "training" in content and "file_ending" not in content:
        return _parse_training_key(content["training"], findings)
    return None


def _parse_dataset_key(listed: Any, findings: Findings) -> tuple[ListedCase, ...]:
    if not isinstance(listed, dict):
        findings.problems.append(
            f'{DESCRIPTION_NAME}: dataset must map case names to {{"images": [...], "label": ...}}, '
            f"found {listed!r:.80}"
        )
        return ()
    cases = []
    for name, entry in listed.items():
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if isinstance(images, list) and images and isinstance(label, str) and all(isinstance(x, str) for x in images):
            cases.append(ListedCase(name=name, images=tuple(images), label=label))
        else:
            findings.add_to_case(
                name,
                f"its entry in 'dataset' of {DESCRIPTION_NAME} must have images (a list of paths) and label (a path)\n"
                f"    found {entry!r:.80}",
            )
    return tuple(cases)


def _parse_training_key(listed: Any, findings: Findings) -> tuple[ListedCase, ...] | None:
    """Parses the Decathlon's list of images and labels; cases are named by their label files."""
    if not isinstance(listed, list) or not listed:
        return None
    cases, wrong = [], []
    for entry in listed:
        image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if isinstance(image, str) and isinstance(label, str):
            cases.append(ListedCase(name=None, images=(image,), label=label))
        else:
            wrong.append(entry)
    if wrong:
        findings.problems.append(
            f"{DESCRIPTION_NAME}: training: every entry must have image and label, {len(wrong)} of {len(listed)} have "
            f"not, such as {wrong[0]!r:.80}"
        )
    return tuple(sorted(cases, key=lambda case: case.label))
