"""A command parses its options, calls one workflow and prints one summary."""

import ast
import inspect
import textwrap
from collections.abc import Callable

import pytest

from autoseg.cli.app import app

LONGEST_BODY_LINES = 30
COMMANDS = [command.callback for command in app.registered_commands if command.callback is not None]


def count_body_lines(function: Callable[..., None]) -> int:
    """Lines below the docstring."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    first, last = definition.body[0], definition.body[-1]
    assert last.end_lineno is not None
    assert first.end_lineno is not None
    return last.end_lineno - first.end_lineno


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_a_command_is_short(command: Callable[..., None]) -> None:
    assert count_body_lines(command) <= LONGEST_BODY_LINES


def test_every_command_is_looked_at() -> None:
    assert len(COMMANDS) == 22
