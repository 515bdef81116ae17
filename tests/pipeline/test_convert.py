"""`autoseg convert` as its page shows it, and the table of layouts on that page."""

import re
import shlex
from pathlib import Path

import pytest
from builders.command_line import run_autoseg
from builders.public_datasets import build_tree

from autoseg.dataset.layouts import LAYOUTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "convert-a-dataset.md"

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    build_tree("kvasir", tmp_path)
    (block,) = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines() if line]
    assert [command[1] for command in commands] == ["convert", "check"]
    converted, checked = (run_autoseg(*command[1:], "--workers", 1, cwd=tmp_path) for command in commands)
    assert converted.code == 0, converted.err
    for text in (
        "kvasir: Kvasir-SEG: polyps in 1000 colonoscopy pictures",
        "**/images/{case}.jpg (3), **/masks/{case}.jpg (3)",
        "are neither black nor white",
        "next: autoseg check polyps",
    ):
        assert text in converted.out
    assert checked.code == 0, checked.out


def test_a_wrong_folder_ends_with_a_message(tmp_path: Path) -> None:
    build_tree("busi", tmp_path / "busi")
    done = run_autoseg("convert", tmp_path / "busi", tmp_path / "out", "--layout", "kvasir", "--workers", 1)
    assert done.code == 1
    assert "expected **/images/{case}.jpg (found 0)" in done.err
    assert "Traceback" not in done.err


def test_the_page_lists_every_layout() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert rows[1:] == list(LAYOUTS)  # below the heading
