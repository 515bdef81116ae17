"""Lets commands take URLs in place of paths: they get a local path that stands for the URL."""

import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from autoseg.errors import RemoteError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Use = Literal["read", "watch", "write", "write file", "write as named"]
"""Use of a path; one that is written as named is a file if its name has an ending of `FILE_ENDINGS`, else a folder."""

USES: Final[Mapping[str, Mapping[str, Use]]] = {
    "check": {"dataset": "read", "splits": "read"},
    "plan": {"dataset": "read", "run": "write", "splits": "read", "pretrained": "read"},
    "preprocess": {"run": "write"},
    "train": {"run": "write", "init": "read"},
    "status": {"run": "watch"},
    "select": {"run": "write"},
    "predict": {"run": "read", "images": "read", "out": "write"},
    "evaluate": {"predictions": "write", "references": "read", "run": "read"},
    "report": {"run": "write", "predictions": "read", "out": "write file"},
    "export": {"run": "read", "output": "write as named"},
    "import_model": {"source": "read", "run": "write"},
}
"""Use of the arguments that may be URLs, by command."""
FILE_ENDINGS: Final = (".zip",)
LIKE_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]")  # two letters at least: C:\\ is a drive


def accept_urls(command: Callable[..., None]) -> Callable[..., None]:
    """Wraps a command so that its paths may be URLs."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        suspects = {name: value for name, value in options.items() if isinstance(value, Path) and _is_like_url(value)}
        if not suspects:
            command(*arguments, **options)
            return
        with _open_locally(command.__name__, suspects) as local:
            command(*arguments, **{**options, **local})

    return run


def name_urls(text: str) -> str:
    """Writes URLs in place of the local paths that stand for them, if there are any."""
    mirror = sys.modules.get("autoseg.remote.mirror")  # loaded when a command is given a URL
    return text if mirror is None else str(mirror.name_urls(text))


def _is_like_url(path: Path) -> bool:
    return LIKE_URL.match(str(path)) is not None


@contextmanager
def _open_locally(command: str, suspects: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    from autoseg.remote.address import find_url

    urls = {name: url for name, path in suspects.items() if (url := find_url(path)) is not None}
    with ExitStack() as stack:
        yield {name: stack.enter_context(_open(command, name, url)) for name, url in urls.items()}


def _open(command: str, name: str, url: str) -> "AbstractContextManager[Path]":
    from autoseg.remote.address import hide_secrets
    from autoseg.remote.session import open_to_read, open_to_write

    uses = USES.get(command, {})
    if name not in uses:
        able = f"; of this command, these may be URLs: {', '.join(uses)}" if uses else ""
        msg = f"autoseg {command} needs a local path for {name}, found {hide_secrets(url)}{able}; copy it here first"
        raise RemoteError(msg)
    if uses[name] in ("read", "watch"):
        return open_to_read(url, refreshes=uses[name] == "watch")
    is_named_file = uses[name] == "write as named" and url.lower().endswith(FILE_ENDINGS)
    return open_to_write(url, is_file=is_named_file or uses[name] == "write file")
