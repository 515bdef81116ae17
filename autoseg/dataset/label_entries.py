"""Parses the entries `labels` and `regions_class_order` of dataset.json."""

import json
from collections.abc import Sequence
from typing import Any, Final

from autoseg.dataset.cases import DESCRIPTION_NAME, Findings
from autoseg.errors import shorten_names
from autoseg.labels import LabelClass, LabelScheme, group_painted_values, list_painting_errors, propose_regions

BACKGROUND: Final = "background"
IGNORE: Final = "ignore"
MOST_ERRORS: Final = 5
LONGEST_PROPOSAL: Final = 3000  # characters
LARGEST_VALUE: Final = 2**31 - 1  # label maps are read as 32-bit integers

Values = tuple[int, ...]


def parse_labels(labels: Any, order: Any, findings: Findings) -> LabelScheme | None:
    """Builds the label scheme; None if a problem was found (and added to the findings)."""
    problem_count = len(findings.problems)
    entries = _parse_entries(labels, findings)
    if len(findings.problems) > problem_count:
        return None
    _check_background(entries, findings)
    ignore = _parse_ignore(entries, findings)
    foreground = {name: values for name, values in entries.items() if name != IGNORE and set(values) != {0}}
    if not foreground:
        findings.problems.append(f"{DESCRIPTION_NAME}: labels: at least one label besides 'background' is needed")
    has_regions = any(len(values) > 1 for values in foreground.values())
    if not has_regions:
        _check_unique(entries, findings)
    write_values = _parse_order(order, foreground, findings) if has_regions else None
    if not has_regions and order is not None:
        findings.notes.append(
            f"{DESCRIPTION_NAME}: regions_class_order is ignored, because no label lists several values"
        )
    if len(findings.problems) > problem_count:
        return None
    return LabelScheme(
        classes=tuple(LabelClass(name=name, values=values) for name, values in foreground.items()),
        ignore_value=ignore,
        region_write_values=write_values,
        declared_count=len(entries),
    )


def _parse_entries(labels: Any, findings: Findings) -> dict[str, Values]:
    """Returns the values of each name in the order of declaration; a single value becomes a tuple."""
    if not isinstance(labels, dict) or not labels:
        findings.problems.append(
            f"{DESCRIPTION_NAME}: labels must map names to values, for example "
            f'{{"background": 0, "tumour": 1}}, found {labels!r:.80}'
        )
        return {}
    if all(_is_integer_text(key) and isinstance(name, str) for key, name in labels.items()):
        labels = _invert(labels, findings)
    entries = {}
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(_is_label_value(item) for item in values):
            findings.problems.append(
                f"{DESCRIPTION_NAME}: labels: {name!r} must be an integer or a list of integers of at most 32 bits, "
                f"found {value!r:.80}"
            )
            continue
        entries[name] = tuple(dict.fromkeys(values))
    return entries


def _is_label_value(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_VALUE


def _is_integer_text(key: str) -> bool:
    return key.removeprefix("-").isdecimal()


def _invert(labels: dict[str, str], findings: Findings) -> dict[str, int]:
    """Inverts the entries of the Medical Segmentation Decathlon, which map values to names."""
    inverted: dict[str, int] = {}
    for key, name in labels.items():
        value = int(key)
        name = BACKGROUND if value == 0 else name
        if name in inverted:
            findings.problems.append(
                f"{DESCRIPTION_NAME}: labels: the values {inverted[name]} and {value} have the same name {name!r}; "
                f"give each its own name"
            )
        inverted[name] = value
    return inverted


def _check_background(entries: dict[str, Values], findings: Findings) -> None:
    if BACKGROUND not in entries:
        holder = next((name for name, values in entries.items() if values == (0,)), None)
        found = f"; rename {holder!r}" if holder else ""
        findings.problems.append(f"{DESCRIPTION_NAME}: labels: 'background' with the value 0 is missing{found}")
    elif entries[BACKGROUND] != (0,):
        findings.problems.append(
            f"{DESCRIPTION_NAME}: labels: 'background' must be 0, found {_show(entries[BACKGROUND])}; "
            f"save the label maps with 0 as background"
        )


def _parse_ignore(entries: dict[str, Values], findings: Findings) -> int | None:
    if IGNORE not in entries:
        return None
    values = entries[IGNORE]
    users = [name for name, others in entries.items() if name != IGNORE and set(values) & set(others)]
    if len(values) != 1 or users:
        used = f", but {values[0]} is {users[0]!r}" if users else ""
        findings.problems.append(
            f"{DESCRIPTION_NAME}: labels: 'ignore' must be one integer that no other label has, "
            f"found {_show(values)}{used}"
        )
    return values[0]


def _check_unique(entries: dict[str, Values], findings: Findings) -> None:
    owners: dict[int, str] = {}
    for name, (value, *_) in entries.items():
        if value in owners and name != IGNORE:
            findings.problems.append(
                f"{DESCRIPTION_NAME}: labels: {owners[value]!r} and {name!r} both have the value {value}; "
                f"give each label its own value"
            )
        owners.setdefault(value, name)


def _parse_order(order: Any, regions: dict[str, Values], findings: Findings) -> Values:
    known = {value for values in regions.values() for value in values} | {0}
    names = shorten_names(list(regions))
    if not isinstance(order, list) or not all(_is_label_value(value) for value in order):
        found = "is missing" if order is None else f"is {order!r:.80}"
        findings.problems.append(
            f"{DESCRIPTION_NAME}: labels has regions (lists of several values), so regions_class_order must list one "
            f"integer for each of {names}: the value to write there, later ones over earlier ones; it {found}"
        )
        return ()
    if len(order) != len(regions):
        findings.problems.append(
            f"{DESCRIPTION_NAME}: regions_class_order must have {len(regions)} values, one for each of {names}, "
            f"found {len(order)}: {shorten_names([str(value) for value in order])}"
        )
    unknown = [value for value in order if value not in known]
    if unknown:
        listed = shorten_names([str(value) for value in unknown])
        findings.problems.append(f"{DESCRIPTION_NAME}: regions_class_order names {listed}, which no label has")
    return tuple(order)


def check_region_order(labels: LabelScheme, findings: Findings) -> None:
    """Adds a problem if a prediction that is right everywhere would be written as other values.

    Values of the same regions are the same to the network; that they are written as one of them is a note.
    """
    errors = list_painting_errors(labels)
    if errors:
        findings.problems.append(f"{_explain_order(errors)}{_advise_order(labels)}")
    elif labels.has_regions:
        merged = [(painted, values) for painted, values in group_painted_values(labels).items() if len(values) > 1]
        findings.notes += [_describe_merged(painted, values) for painted, values in merged[:MOST_ERRORS]]
        if len(merged) > MOST_ERRORS:
            findings.notes.append(f"{DESCRIPTION_NAME}: and so for {len(merged) - MOST_ERRORS} more groups of values")


def _describe_merged(painted: int, values: Values) -> str:
    both = len(values) == 2
    listed = f"{values[0]} and {values[1]}" if both else shorten_names([str(value) for value in values])
    return (
        f"{DESCRIPTION_NAME}: {listed} belong to the same regions, so that predictions hold {painted} for "
        f"{'both' if both else 'all of them'}"
    )


def warn_of_region_order(labels: LabelScheme) -> tuple[str, ...]:
    """Warns of a model whose label maps cannot be right, for models that exist and are to be used all the same."""
    errors = list_painting_errors(labels)
    if not errors:
        return ()
    advice = "the probabilities are not affected (--save-probabilities); the order belongs to the trained network"
    return (f"warning: {_explain_order(errors)}; {advice}",)


def _explain_order(errors: Sequence[str]) -> str:
    more = f"; and {len(errors) - MOST_ERRORS} more" if len(errors) > MOST_ERRORS else ""
    return (
        f"{DESCRIPTION_NAME}: regions are written in the order of 'labels', later ones over earlier ones, and with "
        f"this regions_class_order {'; '.join(errors[:MOST_ERRORS])}{more}"
    )


def _advise_order(labels: LabelScheme) -> str:
    """Writes the lines of dataset.json that make every value right, unless they are too long to be read."""
    proposed = propose_regions(labels)
    entries: dict[str, Any] = {BACKGROUND: 0} | {
        entry.name: entry.values[0] if len(entry.values) == 1 else list(entry.values) for entry, _ in proposed
    }
    if labels.ignore_value is not None:
        entries[IGNORE] = labels.ignore_value
    added = len(proposed) - len(labels.classes)
    change = "add a region, as no order of these is right" if added else "reorder them"
    lines = (
        f'    "labels": {json.dumps(entries, ensure_ascii=False)},\n'
        f'    "regions_class_order": {json.dumps([value for _, value in proposed])}'
    )
    if len(lines) > LONGEST_PROPOSAL:
        extra = f", and add {added} for values of regions that overlap in part" if added else ""
        return f"; list outer regions before those inside them, each with a value that no later one has{extra}"
    return f"; {change}:\n{lines}"


def _show(values: Values) -> str:
    return str(values[0]) if len(values) == 1 else str(list(values))
