"""Places that run work: this computer, or the engine of a cluster; one file or folder a place, in a table.

A row opens a place for the time of one command: from its address (the text behind `://`, often empty), the run that the
command works on, and the settings that the user gave as KEY=VALUE.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from autoseg.document import suggest_key
from autoseg.errors import OptionError
from autoseg.places.dask import open_dask
from autoseg.places.local import ThisComputer
from autoseg.places.place import Place
from autoseg.places.slurm.place import open_slurm

OpenPlace = Callable[[str, Path, Sequence[str]], AbstractContextManager[Place]]


def open_here(address: str, run_root: Path, settings: Sequence[str]) -> AbstractContextManager[Place]:
    """Opens this computer.

    Raises:
        OptionError: There is an address or a setting.
    """
    del run_root
    if settings and not address:
        msg = f"--slurm {settings[0]} is of use for jobs alone; add --on slurm, or leave it out"
        raise OptionError(msg)
    if address or settings:
        msg = f"--on here takes no address and no settings, found {', '.join([address, *settings])!r}"
        raise OptionError(msg)
    return nullcontext(ThisComputer())


HERE: Final = "here"
PLACES: Final[Mapping[str, OpenPlace]] = {
    HERE: open_here,
    "dask": open_dask,
    "slurm": open_slurm,
}


def open_place(text: str, run_root: Path, settings: Sequence[str] = ()) -> AbstractContextManager[Place]:
    """Opens a place within a block.

    Args:
        text: NAME or NAME://ADDRESS, as for the option --on.
        run_root: Run folder.
        settings: Settings that the user gave, as KEY=VALUE.

    Raises:
        OptionError: There is no such place, or it takes no such address or setting.
    """
    name, _, address = text.partition("://")
    if name not in PLACES:
        msg = f"--on: no place is called {name!r}{suggest_key(name, list(PLACES))}; choose one of: {', '.join(PLACES)}"
        raise OptionError(msg)
    return PLACES[name](address, run_root, settings)
