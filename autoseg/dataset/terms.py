"""Coded terms of classes, as `dataset.json` or a file of their own states them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoseg.document import parse_part, suggest_key
from autoseg.errors import DocumentError
from autoseg.labels import ClassTerms
from autoseg.untrusted.json_reading import read_json


def parse_terms(
    listed: Any, names: Sequence[str] | None, *, where: str
) -> tuple[dict[str, ClassTerms], tuple[str, ...]]:
    """Parses terms by the names of classes.

    Args:
        listed: Parsed JSON.
        names: Names of the classes; None where they are not known.
        where: Names the place in messages.

    Returns:
        Those that are valid, and the problems of the others.
    """
    if not isinstance(listed, dict):
        return {}, (f"{where} must map names of labels to terms, found {listed!r:.80}",)
    terms: dict[str, ClassTerms] = {}
    problems = []
    for name, entry in listed.items():
        if names is not None and name not in names:
            problems.append(f"{where}: no label has the name {name!r}{suggest_key(name, list(names))}")
            continue
        try:
            terms[name] = parse_part(entry, ClassTerms, where=f"{where}: {name}")
        except DocumentError as error:
            problems.append(str(error))
    return terms, tuple(problems)


def read_terms(path: Path, names: Sequence[str]) -> dict[str, ClassTerms]:
    """Reads a file that holds what `terms` holds in `dataset.json`.

    Raises:
        DocumentError: It cannot be read, or names other classes; the message lists all problems and the classes.
    """
    terms, problems = parse_terms(read_json(path), names, where=str(path))
    if problems:
        msg = "\n".join([*problems, f"the classes of the model are {', '.join(names)}"])
        raise DocumentError(msg)
    return terms
