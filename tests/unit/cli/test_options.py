import pytest

from autoseg.cli.terminal.options import parse_duration, parse_precision
from autoseg.errors import OptionError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("8h", 28_800), ("2d", 172_800), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("1 h 5 m", 3900)],
)
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "half an hour", "0m", "-5m", "5m later", "1e3s"])
def test_other_times_are_refused_with_an_example(text):
    with pytest.raises(OptionError, match="expected a time like 30m, 8h, 1h30m or 2d"):
        parse_duration(text)


def test_a_precision_is_one_of_four():
    assert parse_precision("bfloat16") == "bfloat16"
    with pytest.raises(OptionError, match="no precision is called 'half'; choose one of: auto, float32"):
        parse_precision("half")
