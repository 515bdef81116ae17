"""Places that run work: this computer, or the engine of a cluster; one file a place, in a table.

A row opens a place from its address (the text behind `://`, often empty) for the time of one command.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final

from autoseg.document import suggest_key
from autoseg.errors import OptionError
from autoseg.places.local import open_here
from autoseg.places.place import Place

OpenPlace = Callable[[str], AbstractContextManager[Place]]

HERE: Final = "here"
PLACES: Final[Mapping[str, OpenPlace]] = {
    HERE: open_here,
}


def open_place(text: str) -> AbstractContextManager[Place]:
    """Opens a place within a block.

    Args:
        text: NAME or NAME://ADDRESS, as for the option --on.

    Raises:
        OptionError: There is no such place, or it does not take such an address.
    """
    name, _, address = text.partition("://")
    if name not in PLACES:
        msg = f"--on: no place is called {name!r}{suggest_key(name, list(PLACES))}; choose one of: {', '.join(PLACES)}"
        raise OptionError(msg)
    return PLACES[name](address)
