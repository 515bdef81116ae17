from pathlib import Path

import pytest

from autoseg.errors import OptionError
from autoseg.places import PLACES, open_place
from autoseg.places.place import Place
from autoseg.processes.progress import SilentProgress


def test_the_table_has_this_computer() -> None:
    assert "here" in PLACES


def test_this_computer_runs_a_function_over_cases() -> None:
    place: Place
    with open_place("here", Path("run")) as place:
        outcome = place.run_over_cases(
            int, [("a", "1"), ("b", "x"), ("c", "3")], workers=1, label="Reading", progress=SilentProgress()
        )
    assert outcome.results == (1, 3)
    assert [failure.case for failure in outcome.failures] == ["b"]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("her", (), r"no place is called 'her' \(did you mean 'here'\?\); choose one of: here, dask, slurm"),
        ("here://node1", (), "takes no address and no settings, found 'node1'"),
        ("here", ("partition=x",), "--slurm partition=x is of use for jobs alone; add --on slurm"),
        ("slurm://node1", (), r"takes no address, found 'node1'; give settings with --slurm KEY=VALUE"),
    ],
)
def test_another_place_is_refused(text: str, settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message), open_place(text, Path("run"), settings):
        pass


def test_a_path_in_which_slurm_would_replace_letters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="what follows %"), open_place("slurm", tmp_path / "50%j.autoseg", ()):
        pass
