"""Lets functions take URLs in place of paths: they get local paths that stand for the URLs."""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
            suspects = {
                key: value
                for key, value in given.items()
                if any(_is_like_url(one, is_named=key in uses) for one in _list_values(value))
            }
            if not suspects:
                return function(*arguments, **options)
            with _open_locally(called, suspects, uses) as local:
                return call(**given | local)

        return run

    return decorate


def _list_values(value: object) -> Sequence[object]:
    """Lists the values of an argument that takes several of them."""
    return value if isinstance(value, list | tuple) else [value]


def _is_like_url(value: object, *, is_named: bool) -> bool:
    """Returns whether a value is a path like a URL; a text is a path only as an argument that may be a URL."""
    is_path = isinstance(value, Path) or (is_named and isinstance(value, str))
    return is_path and LIKE_URL.match(str(value)) is not None


@contextmanager
def _open_locally(called: str, suspects: Mapping[str, object], uses: Mapping[str, Use]) -> Iterator[dict[str, object]]:
    """Yields the arguments with local paths in place of URLs."""
    from autoseg.remote.address import find_url

    with ExitStack() as stack:

        def open_one(name: str, value: object) -> object:
            url = find_url(Path(str(value))) if _is_like_url(value, is_named=name in uses) else None
            return value if url is None else stack.enter_context(_open(called, name, url, uses))

        local = {name: [open_one(name, one) for one in _list_values(value)] for name, value in suspects.items()}
        yield {
            name: values if isinstance(suspects[name], list | tuple) else values[0] for name, values in local.items()
        }


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
