"""Lets functions take URLs in place of paths: they get local paths that stand for the URLs."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal, ParamSpec, TypeVar

from autoseg.errors import RemoteError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Use = Literal["read", "watch", "write", "write file", "write as named"]
"""Use of a path; one that is written as named is a file if its name has an ending of `FILE_ENDINGS`, else a folder."""

FILE_ENDINGS: Final = (".zip",)
LIKE_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]")  # two letters at least: C:\ is a drive


def accept_urls(
    called: str, uses: Mapping[str, Use]
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Returns a decorator of functions whose paths may be URLs.

    Args:
        called: Name of the function for messages.
        uses: Use of the arguments that may be URLs; other paths are refused.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        names = tuple(inspect.signature(function).parameters)
        call: Callable[..., Result] = function

        @functools.wraps(function)
        def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
            given = dict(zip(names, arguments, strict=False)) | options
            paths = {key: value for key, value in given.items() if _is_path(value, is_named=key in uses)}
            suspects = {key: Path(str(value)) for key, value in paths.items() if LIKE_URL.match(str(value))}
            if not suspects:
                return function(*arguments, **options)
            with _open_locally(called, suspects, uses) as local:
                return call(**given | local)

        return run

    return decorate


def _is_path(value: object, *, is_named: bool) -> bool:
    """Returns whether a value is a path; a text is one only as an argument that may be a URL."""
    return isinstance(value, Path) or (is_named and isinstance(value, str))


@contextmanager
def _open_locally(called: str, suspects: Mapping[str, Path], uses: Mapping[str, Use]) -> Iterator[dict[str, Path]]:
    from autoseg.remote.address import find_url

    urls = {name: url for name, path in suspects.items() if (url := find_url(path)) is not None}
    with ExitStack() as stack:
        yield {name: stack.enter_context(_open(called, name, url, uses)) for name, url in urls.items()}


def _open(called: str, name: str, url: str, uses: Mapping[str, Use]) -> AbstractContextManager[Path]:
    from autoseg.remote.address import hide_secrets
    from autoseg.remote.session import open_to_read, open_to_write

    if name not in uses:
        able = f"; beside it, these may be URLs: {', '.join(uses)}" if uses else ""
        msg = f"{called} needs a local path for {name}, found {hide_secrets(url)}{able}; copy it here first"
        raise RemoteError(msg)
    if uses[name] in ("read", "watch"):
        return open_to_read(url, refreshes=uses[name] == "watch")
    is_named_file = uses[name] == "write as named" and url.lower().endswith(FILE_ENDINGS)
    return open_to_write(url, is_file=is_named_file or uses[name] == "write file")
