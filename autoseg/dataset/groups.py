"""Groups of cases that belong together, such as those of one patient; a fold never splits a group."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoseg.errors import DocumentError, TrainingError, shorten_names
from autoseg.untrusted.json_reading import read_json


def group_by_pattern(case_names: Sequence[str], pattern: str) -> Mapping[str, str]:
    """Groups cases by the match of a pattern's first capture group, or of the whole pattern, in their names.

    Raises:
        TrainingError: The pattern is not a regular expression, or does not match every name.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        msg = f"--group-by needs a regular expression, found {pattern!r}: {error}"
        raise TrainingError(msg) from error
    groups = {name: _find_group(expression, name) for name in case_names}
    unmatched = [name for name, group in groups.items() if group is None]
    if unmatched:
        msg = (
            f"--group-by {pattern!r} must match the name of every case, but does not match {shorten_names(unmatched)}; "
            f"change the pattern, or name the groups in groups.json"
        )
        raise TrainingError(msg)
    return {name: group for name, group in groups.items() if group is not None}


def read_groups(path: Path, case_names: Sequence[str]) -> Mapping[str, str]:
    """Reads groups.json, an object of the form {"case": "group"}, and checks it.

    Raises:
        DocumentError: The file cannot be read or has another form.
        TrainingError: It names unknown cases or leaves cases out.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(group, str | int) for group in content.values()):
        msg = f'{path} must map case names to groups, for example {{"case1": "patientA"}}, found {content!r:.80}'
        raise DocumentError(msg)
    unknown, missing = sorted(set(content) - set(case_names)), sorted(set(case_names) - set(content))
    problems = [f"unknown cases: {shorten_names(unknown)}"] if unknown else []
    problems += [f"cases without group: {shorten_names(missing)}"] if missing else []
    if problems:
        msg = f"{path} does not fit the dataset: {'; '.join(problems)}; correct the file"
        raise TrainingError(msg)
    return {name: str(content[name]) for name in case_names}


def _find_group(expression: re.Pattern[str], name: str) -> str | None:
    match = expression.search(name)
    if match is None:
        return None
    group: str | None = match[1] if expression.groups else match[0]
    return group
