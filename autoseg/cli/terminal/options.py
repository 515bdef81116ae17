"""Parses the text of options."""

import inspect
import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from autoseg.cli.terminal.completion import complete_case_place, complete_place
from autoseg.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autoseg.runtime.precision import Precision
    from autoseg.training.monitoring.trackers import TrackerName
    from autoseg.volume_io.dicom import DicomFormat

OnCases = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="PLACE",
        autocompletion=complete_case_place,
        help="Where cases are worked on: slurm, dask://HOST:PORT, or dask for workers of this computer (needs "
        "autoseg[slurm] or autoseg[dask]).  [default: this computer]",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        autocompletion=complete_place,
        help="Where the work runs: slurm submits jobs (needs autoseg[slurm]).  [default: this computer]",
    ),
]
SlurmSetting = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="Setting of Slurm in place of that in slurm.json (repeatable)."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be submitted, and change nothing.")]

WITHOUT_RESULT: Final = (
    "--run",
    "--no-preprocess",
    "--workers",
    "--overwrite",
    "--on",
    "--slurm",
    "--dry-run",
    "--help",
)
"""Options of `autoseg plan` that say where and how it works, and change no plan."""
UNIT_SECONDS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")


def list_given_options(
    command: "Callable[..., None]", values: "Mapping[str, object]", *, but: "Sequence[str]" = WITHOUT_RESULT
) -> tuple[str, ...]:
    """Lists the options of a call that are not those of a call without any, as words of the command line.

    Args:
        command: The function of the command, whose parameters have the names of its options.
        values: Values of the call, by parameter.
        but: Options that are left out.
    """
    words: list[str] = []
    for name, parameter in inspect.signature(command).parameters.items():
        flag, value = f"--{name.replace('_', '-')}", values[name]
        if parameter.default is parameter.empty or flag in but or value == parameter.default:
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [flag] if one is True else [flag, str(one)]
    return tuple(words)


def parse_duration(text: str) -> float:
    """Parses a time like 30m, 8h, 1h30m, 1.5h or 2d into seconds.

    Raises:
        OptionError: It does not have this form, or is 0.
    """
    compact = text.replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", compact)
    seconds = sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)
    if not DURATION.fullmatch(compact) or seconds == 0:
        msg = f"expected a time like 30m, 8h, 1h30m or 2d (days, hours, minutes, seconds), found {text!r}"
        raise OptionError(msg)
    return seconds


def parse_precision(text: str) -> "Precision":
    """Checks the name of a precision.

    Raises:
        OptionError: There is no such precision.
    """
    from typing import cast, get_args

    from autoseg.runtime.precision import Precision

    if text not in get_args(Precision):
        msg = f"no precision is called {text!r}; choose one of: {', '.join(get_args(Precision))}"
        raise OptionError(msg)
    return cast("Precision", text)


def parse_trackers(names: "Sequence[str]") -> "tuple[TrackerName, ...]":
    """Checks names of trackers.

    Raises:
        OptionError: There is no such tracker.
    """
    from typing import cast, get_args

    from autoseg.training.monitoring.trackers import TrackerName

    unknown = [name for name in names if name not in get_args(TrackerName)]
    if unknown:
        msg = f"--log-to takes {' or '.join(get_args(TrackerName))}, found {unknown[0]!r}"
        raise OptionError(msg)
    return cast("tuple[TrackerName, ...]", tuple(dict.fromkeys(names)))


def parse_formats(names: "Sequence[str]") -> "tuple[DicomFormat, ...]":
    """Checks names of formats of DICOM.

    Raises:
        OptionError: There is no such format.
    """
    from typing import cast, get_args

    from autoseg.volume_io.dicom import DicomFormat

    unknown = [name for name in names if name not in get_args(DicomFormat)]
    if unknown:
        msg = f"--format takes {' or '.join(get_args(DicomFormat))}, found {unknown[0]!r}"
        raise OptionError(msg)
    return cast("tuple[DicomFormat, ...]", tuple(dict.fromkeys(names)))
