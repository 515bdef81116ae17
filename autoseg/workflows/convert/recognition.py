"""Chooses the layout of a folder: the one that the user names, or the only one that fits."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from autoseg.dataset.layouts import LAYOUTS
from autoseg.dataset.layouts.layout import show_pattern
from autoseg.dataset.layouts.matching import LayoutMatch, describe_tree, match_layout
from autoseg.errors import DatasetError, OptionError, Problem
from autoseg.workflows.convert.coco import match_coco

AUTO: Final = "auto"
COCO: Final = "coco"
MOST_PROBLEMS: Final = 20


def choose_layout(root: Path, name: str, paths: Sequence[str]) -> tuple[str, LayoutMatch]:
    """Returns the name of the layout and the files that belong to it.

    Args:
        root: Folder of the dataset.
        name: Name of the layout, or `AUTO`.
        paths: All files below it.

    Raises:
        OptionError: There is no layout of this name.
        DatasetError: The files do not fit the layout, or fit none, or several, or belong to a case twice.
    """
    if name == AUTO:
        name, match = _recognize(root, paths)
    elif name in LAYOUTS:
        match = _match_variants(root, name, paths)
        if not match.fits:
            msg = f"{root} does not hold the files of {name}:"
            raise DatasetError(msg, _explain_misfit(name, paths))
    else:
        close = difflib.get_close_matches(name, LAYOUTS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        msg = f"--layout: there is no layout {name!r}{hint} Layouts: {', '.join((AUTO, *LAYOUTS))}"
        raise OptionError(msg)
    if match.problems:
        listed = [Problem(text=text) for text in match.problems[:MOST_PROBLEMS]]
        msg = f"{root} holds files of {name} twice:"
        raise DatasetError(msg, listed)
    return name, match


def _match_variants(root: Path, name: str, paths: Sequence[str]) -> LayoutMatch:
    """Returns the first variant that fits, else the one with the most files."""
    if name == COCO:
        return match_coco(root, LAYOUTS[name][0], paths)
    matches = [match_layout(layout, paths) for layout in LAYOUTS[name]]
    fitting = [match for match in matches if match.fits]
    return fitting[0] if fitting else max(matches, key=lambda match: sum(match.counts.values()))


def _recognize(root: Path, paths: Sequence[str]) -> tuple[str, LayoutMatch]:
    matches = {name: _match_variants(root, name, paths) for name in LAYOUTS}
    fitting = {name: match for name, match in matches.items() if match.fits and _is_named(root, match)}
    if len(fitting) == 1:
        return next(iter(fitting.items()))
    if fitting:
        heading = f"the files in {root} fit {len(fitting)} layouts; name the right one with --layout:"
        raise DatasetError(heading, [Problem(text=f"{name}: {match.describe()}") for name, match in fitting.items()])
    msg = f"{root} holds no dataset that is known by its names:"
    raise DatasetError(msg, _explain_no_fit(paths, matches))


def _is_named(root: Path, match: LayoutMatch) -> bool:
    wanted = match.layout.recognized_by.lower()
    return any(wanted in f"{root.resolve().name}/{case.images[0]}".lower() for case in match.cases)


def _explain_misfit(name: str, paths: Sequence[str]) -> list[Problem]:
    variants = [match_layout(layout, paths) for layout in LAYOUTS[name]]
    expected = [Problem(text=f"expected {_list_counts(match)}") for match in variants]
    source = LAYOUTS[name][0]
    return [*expected, Problem(text=f"as in {source.names_from}"), Problem(text=f"found {describe_tree(paths)}")]


def _list_counts(match: LayoutMatch) -> str:
    return ", ".join(f"{show_pattern(pattern)} (found {count})" for pattern, count in match.counts.items())


def _explain_no_fit(paths: Sequence[str], matches: Mapping[str, LayoutMatch]) -> list[Problem]:
    near = [
        Problem(text=f"{name} would need {_list_counts(match)}")
        for name, match in matches.items()
        if match.cases or match.incomplete
    ]
    named = [
        Problem(text=f"if it is {match.layout.title}, name it with --layout {name}")
        for name, match in matches.items()
        if match.fits
    ]
    advice = "name the layout with --layout, or let `autoseg init` describe the folder where it is"
    known = Problem(text=f"known layouts: {', '.join(LAYOUTS)}; {advice}")
    return [Problem(text=f"found {describe_tree(paths)}"), *(named or near), known]
