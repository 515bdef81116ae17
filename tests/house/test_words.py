"""Docstrings, messages and docs use the words of docs/conventions.md, in plain statements."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONVENTIONS = ROOT / "docs" / "conventions.md"
QUESTION: Final = re.compile(r"(What|Which|How|Where|When|Who|Whose|Whether|Why|From|Of)\b")
ARGUMENT: Final = re.compile(r"\s+\*{0,2}[a-z_][a-z0-9_, ]*: ")
FRAGMENT: Final = re.compile(
    rf"{ARGUMENT.pattern}(Of|By|To|On|From|At|With|In|Between|Behind|Under|Beside|Before|For|As|So|That|Told|"
    r"Where|What|Which|Who|Whose|How)\b"
)
KEYS_OF_FILES: Final = {"number_type"}

pytestmark = pytest.mark.skipif(not CONVENTIONS.is_file(), reason="needs the sources: pages are not installed")


def list_sources() -> list[Path]:
    return [path for top in ("autoseg", "planners") for path in sorted((ROOT / top).rglob("*.py"))]


def get_string(node: ast.AST) -> str | None:
    """The text of a statement that is a string: a docstring."""
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def list_docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, of its constants, classes and functions."""
    yield from filter(None, map(get_string, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))


def read_prose(path: Path) -> str:
    """The strings and comments of a module, without quoted code and without the names in lists of arguments."""
    text = path.read_text(encoding="utf-8")
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = " ".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)
    prose = [re.sub(r"(?m)^\s+\*{0,2}\w+: ", " ", string) for string in strings if isinstance(string, str)]
    return strip_code("\n".join((comments, *prose)))


def read_page(path: Path) -> str:
    """A page without examples and quoted code; of the conventions, without the table that rules words out."""
    text = path.read_text(encoding="utf-8")
    if path == CONVENTIONS:
        text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    return strip_code(re.sub(r"```.*?```", " ", text, flags=re.DOTALL))


def strip_code(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"`[^`]*`", "`", text))


def list_ruled_out() -> list[str]:
    """The quoted words in the third column of the table of names."""
    _, _, section = CONVENTIONS.read_text(encoding="utf-8").partition("\n## Names\n")
    rows = [line.strip().strip("|").split("|") for line in section.partition("\n## ")[0].splitlines() if "|" in line]
    return [word for row in rows[2:] for word in re.findall(r'"([^"]+)"', row[2])]


def build_pattern(word: str) -> re.Pattern[str]:
    """Finds a word in its usual forms ("teams", "goes on", "taken up"), but not "up to"."""
    verb, _, particle = word.partition(" ")
    forms = {"go": "go(?:es|ing|ne)?|went", "take": "tak(?:e|es|en|ing)|took"}.get(verb, verb)
    rest = f" {particle}" if particle else ""
    end = r"(?! to\b)" if particle == "up" else ""
    return re.compile(rf"\b(?:{forms}){rest}s?\b{end}", flags=re.IGNORECASE)


def list_identifiers(path: Path) -> Iterator[str]:
    """The names that a module binds, without the fields of its classes, some of which are keys of files."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and node.id not in KEYS_OF_FILES:
            yield node.id


def test_docstrings_of_modules_and_constants_are_statements() -> None:
    bodies = {path: ast.parse(path.read_text(encoding="utf-8")).body for path in list_sources()}
    written = [(path, text) for path, body in bodies.items() for text in map(get_string, body) if text]
    assert len(written) > 300
    assert [f"{path.relative_to(ROOT)}: {text}" for path, text in written if QUESTION.match(text)] == []


def test_arguments_are_described_by_whole_phrases() -> None:
    docstrings = [(path, text) for path in list_sources() for text in list_docstrings(path)]
    lines = [(path, line) for path, text in docstrings for line in text.splitlines()]
    assert len([line for _, line in lines if ARGUMENT.match(line)]) > 500
    assert [f"{path.relative_to(ROOT)}: {line.strip()}" for path, line in lines if FRAGMENT.match(line)] == []


@pytest.mark.parametrize(
    "line", ["        seed: Of the training.", "    *paths: To read.", "    low, high: Between both."]
)
def test_fragments_are_found(line: str) -> None:
    assert FRAGMENT.match(line)


@pytest.mark.parametrize(
    "line", ["        seed: Seed of the training.", "    offset: Offset.", "    paths: Files to read."]
)
def test_phrases_are_no_fragments(line: str) -> None:
    assert not FRAGMENT.match(line)


def test_words_that_the_conventions_rule_out_stand_nowhere() -> None:
    ruled_out = list_ruled_out()
    assert {"number type", "main memory", "processor", "team"} <= set(ruled_out)
    texts = {path: read_prose(path) for path in list_sources()}
    pages = {path: read_page(path) for path in (*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md")}
    assert len(pages) > 5
    found = [
        f"{path.relative_to(ROOT)}: {word!r} in ...{text[max(0, match.start() - 40) : match.end() + 40]}..."
        for path, text in (texts | pages).items()
        for word in ruled_out
        for match in build_pattern(word).finditer(text)
    ]
    assert found == []


def test_identifiers_use_the_words_of_the_conventions() -> None:
    forbidden = {word.replace(" ", "_") for word in list_ruled_out() if " " in word}
    assert "label_rule" in forbidden
    names = {name for path in list_sources() for name in list_identifiers(path)}
    assert len(names) > 1000
    assert names & forbidden == set()


@pytest.mark.parametrize(
    ("word", "text", "is_found"),
    [
        ("team", "the teams train", True),
        ("team", "steam", False),
        ("processor", "The processor computes", True),
        ("processor", "a preprocessor", False),
        ("take up", "weights are taken up again", True),
        ("take up", "all take up to two hours", False),
        ("go on", "training goes on", True),
        ("go on", "a diagonal", False),
    ],
)
def test_a_word_is_found_in_its_forms_alone(word: str, text: str, *, is_found: bool) -> None:
    assert bool(build_pattern(word).search(text)) is is_found


def test_quoted_code_and_names_of_arguments_are_no_prose(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""Uses `team`.\n\nArgs:\n    team: The processes.\n"""\n# by the main memory\n', encoding="utf-8")
    assert not build_pattern("team").search(read_prose(path))
    assert build_pattern("main memory").search(read_prose(path))
