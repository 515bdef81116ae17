"""Progress as plain lines, where the output is no terminal."""

import io

from rich.console import Console as RichConsole

from autoseg.cli.terminal import console as module
from autoseg.cli.terminal.console import Console


def test_items_that_become_more_are_never_said_to_take_negative_time(monkeypatch):
    monkeypatch.setattr(module, "PLAIN_LINE_SECONDS", 0.0)
    output, totals = io.StringIO(), iter([2, 2, 4, 3, 3])
    console = Console(RichConsole(file=output, force_terminal=False))
    for _ in console.track("abcde", label="Training 0", total=lambda: next(totals), unit="iteration"):
        pass
    lines = output.getvalue().splitlines()
    assert [line.split(" ")[2] for line in lines] == ["1/2", "2/2", "3/4", "4/3", "5/3"]
    assert all(line.endswith("left") and "-" not in line for line in lines)
