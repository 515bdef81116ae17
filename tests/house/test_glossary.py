"""The glossary explains every word that tables, plans and results hold, and no word that nothing holds."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from autoseg.cli.app import app
from autoseg.cli.terminal.reports import COLUMNS
from autoseg.cli.terminal.training_table import HEADINGS
from autoseg.cli.urls import USES
from autoseg.document import OneOf
from autoseg.evaluation.crossvalidation import CrossValidation
from autoseg.evaluation.summary import MetricValues, format_metric_name
from autoseg.plan import Plan
from autoseg.training.monitoring.history import EpochRecord
from autoseg.workflows.folds.status import FoldState

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
ALWAYS_THERE = {"schema_version", "autoseg_version", "definitions", "class_names", "name", "configurations"}

pytestmark = pytest.mark.skipif(not GLOSSARY.is_file(), reason="needs the sources: pages are not installed")


def list_rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    _, _, section = GLOSSARY.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def list_terms(heading: str) -> list[str]:
    return [row[0] for row in list_rows(heading)]


def list_fields(heading: str) -> set[str]:
    return {name for term in list_terms(heading) for name in re.findall(r"`(\w+)`", term)}


def read_sources() -> str:
    paths = [path for top in ("autoseg", "planners") for path in (ROOT / top).rglob("*.py")]
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path != GLOSSARY]
    assert len(paths) > 100
    assert len(pages) > 5
    # A term may be broken over lines, in prose as in the parts of a string.
    return re.sub(r"[\s\"'f]+", " ", "\n".join(path.read_text(encoding="utf-8") for path in (*paths, *pages))).lower()


def list_subjects() -> set[str]:
    """Of the decisions that planners record, without the configuration or the channel that they are about."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "planners").rglob("*.py")]
    found = {match for text in texts for match in re.findall(r'(?:record\(\s*|subject=)f?"([^"]+)"', text)}
    return {subject.rpartition(": ")[2] for subject in found}


def list_plan_rows() -> set[str]:
    text = (ROOT / "autoseg" / "cli" / "terminal" / "reports.py").read_text(encoding="utf-8")
    _, _, body = text.partition("def _list_plan_rows")
    rows = set(re.findall(r'^        \(\s*"([^"]+)"[^\n]*?,\s*\*', body, flags=re.MULTILINE))
    networks = [path.read_text(encoding="utf-8") for path in (ROOT / "autoseg" / "plan" / "network").glob("*.py")]
    described = [
        block
        for text in networks
        for block in re.findall(r"def describe\(.*?return \{(.*?)\}\n", text, flags=re.DOTALL)
    ]
    return rows | {heading for block in described for heading in re.findall(r'"(\w+)": ', block)}


def walk(model: type[BaseModel]) -> Iterator[str]:
    """The names of all fields of a document, those of its parts included."""
    for name, field in model.model_fields.items():
        yield name
        for part in find_models((field.annotation, *field.metadata)):
            yield from walk(part)


def find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    inner = annotation if isinstance(annotation, tuple) else get_args(annotation)
    if isinstance(annotation, OneOf):
        inner = tuple(annotation.kinds.values())
    for argument in inner:
        yield from find_models(argument)


def test_every_term_has_a_meaning_and_stands_once() -> None:
    headings = ("Words", "Headings and rows of tables", "Decisions of a plan", "Fields of plan.json")
    for heading in headings:
        rows = list_rows(heading)
        assert len(rows) > 10, heading
        assert all(all(cell for cell in row) for row in rows), heading
        terms = [row[0] for row in rows]
        assert sorted(set(terms)) == sorted(terms)


@pytest.mark.parametrize("heading", ["Words", "Headings and rows of tables", "Decisions of a plan"])
def test_every_term_is_used_somewhere(heading: str) -> None:
    sources = read_sources()
    unused = [term for term in list_terms(heading) if re.sub(r"[\s\"'f]+", " ", term).lower().strip() not in sources]
    assert unused == []


def test_every_heading_and_row_of_the_tables_is_explained_and_no_other() -> None:
    rows = list_plan_rows()
    assert "batch" in rows
    columns = {format_metric_name(metric, "mm") for metric in COLUMNS}
    printed = {*HEADINGS, *columns, *get_args(FoldState), *rows}
    assert set(list_terms("Headings and rows of tables")) == printed


def test_every_decision_of_a_plan_is_explained_and_no_other() -> None:
    subjects = list_subjects()
    assert len(subjects) > 10
    assert set(list_terms("Decisions of a plan")) == subjects


def test_every_field_of_a_plan_is_explained_and_no_other() -> None:
    fields = set(walk(Plan))
    assert len(fields) > 80
    assert fields - list_fields("Fields of plan.json") - ALWAYS_THERE == set()
    assert list_fields("Fields of plan.json") - fields == set()


def test_every_figure_of_the_results_is_explained() -> None:
    figures = {*MetricValues.model_fields, *walk(CrossValidation), *EpochRecord.model_fields}
    known = list_fields("Fields of results") | set(list_terms("Words")) | ALWAYS_THERE
    assert figures - known - {"folds", "cases", "classes"} == set()


def test_the_page_about_python_leads_to_the_glossary() -> None:
    assert "(../glossary.md)" in (ROOT / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")


def test_the_commands_and_options_that_take_urls_are_those_of_the_pages() -> None:
    commands = [command.callback for command in app.registered_commands if command.callback is not None]
    parameters = {command.__name__: inspect.signature(command).parameters for command in commands}
    (excepted,) = (row[2] for row in list_rows("Words") if row[0] == "URL")
    local = {name for name, found in parameters.items() if "Path" in str(found)} - set(USES)
    assert set(re.findall(r"`(\w+)`", excepted)) == local
    page = (ROOT / "docs" / "how-to" / "remote-data.md").read_text(encoding="utf-8")
    for command, uses in USES.items():
        (row,) = re.findall(rf"^\| .*`{command.removesuffix('_model')}`.*? \| (.*) \|$", page, flags=re.MULTILINE)
        options = {f"--{name}" for name in uses if "OptionInfo" in str(parameters[command][name])}
        assert set(re.findall(r"`(--\w+)`", row)) == options
