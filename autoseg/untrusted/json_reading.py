"""The one reader of JSON: files may come from strangers, so size, depth and numbers have limits.

The limits are far above anything that autoseg, nnU-Net or a dataset writes, and low enough that a document which was
made to exhaust memory or the stack is refused within a second, by name.
"""

import json
import math
import os
import stat
from collections.abc import Callable, Collection, Iterator
from functools import partial
from json.decoder import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, Final, TextIO

from autoseg.errors import DocumentError
from autoseg.files.network_drives import read_again_if_outdated

MOST_BYTES: Final = 2**26  # 64 MiB; a parsed document takes up to 25 times its size in memory
MOST_LEVELS: Final = 64  # the deepest document of autoseg has 12
SMALLEST_INTEGER: Final = -(2**63)
LARGEST_INTEGER: Final = 2**64 - 1
LONGEST_SHOWN_NUMBER: Final = 24  # digits
LONGEST_SHOWN_KEY: Final = 80
PART_CHARACTERS: Final = 2**16
LONGEST_NUMBER: Final = 64  # characters; a longer one may look as if it ended with the part that is read
BLANKS: Final = " \t\n\r"
HALVES_OF_CHARACTERS: Final = ("\\ud", "\\uD")


def read_json(
    path: Path, *, most_bytes: int = MOST_BYTES, accepts_nan: bool = False, leaves_out: Collection[str] = ()
) -> Any:
    """Reads any JSON file, with or without a byte order mark.

    Args:
        path: A regular file.
        most_bytes: Larger files are refused before they are read.
        accepts_nan: Whether NaN and Infinity are numbers, as Python writes them and other tools may.
        leaves_out: Keys whose values become None while the file is parsed, so that they take no memory.

    Raises:
        DocumentError: The file is missing, unreadable, no JSON in UTF-8, too large or too deep, holds a number that is
            no finite number of 64 bits, or an object in it has a key twice.
    """
    try:
        content = read_again_if_outdated(path.parent, lambda: _read_bytes(path, most_bytes))
    except FileNotFoundError as error:
        msg = f"{path} does not exist"
        raise DocumentError(msg) from error
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise DocumentError(msg) from error
    return parse_json(content, where=str(path), accepts_nan=accepts_nan, leaves_out=leaves_out)


def parse_json(content: bytes | str, *, where: str, accepts_nan: bool = False, leaves_out: Collection[str] = ()) -> Any:
    """Parses JSON by the rules of `read_json`; `where` names its place in messages.

    Raises:
        DocumentError: As `read_json`.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        constant = float if accepts_nan else refuse_constant
        build = partial(build_object, leaves_out=leaves_out) if leaves_out else build_object
        parsed = json.loads(text, object_pairs_hook=build, parse_constant=constant)
        check_values(parsed, accepts_infinity=accepts_nan)
        _check_surrogates(text, parsed)
    except UnicodeDecodeError as error:
        msg = f"{where} cannot be read: it is no text in UTF-8 (byte {error.start}); save it as UTF-8"
        raise DocumentError(msg) from error
    except json.JSONDecodeError as error:
        msg = f"{where}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        raise DocumentError(msg) from error
    except RecursionError as error:
        msg = f"{where} is nested in more than {MOST_LEVELS} levels, which no such document is; is it the right file?"
        raise DocumentError(msg) from error
    except ValueError as error:  # an integer of more digits than Python converts
        msg = f"{where}: an integer does not fit into 64 bits; correct the number"
        raise DocumentError(msg) from error
    except UnusableContentError as error:
        msg = f"{where}: {error}"
        raise DocumentError(msg) from error
    return parsed


class UnusableContentError(Exception):
    """What the document holds is JSON, but of no use; the text says what and why."""


def _read_bytes(path: Path, most_bytes: int) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        msg = f"{path} cannot be read: expected a file, found {_describe_kind(status.st_mode)}"
        raise DocumentError(msg)
    with path.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size  # another version may be there since
        if size <= most_bytes:
            return handle.read(size)  # reading up to most_bytes would reserve as much memory
    msg = (
        f"{path} has {size / 2**20:.0f} MiB; expected a JSON document of at most "
        f"{most_bytes / 2**20:.0f} MiB: is it the right file?"
    )
    raise DocumentError(msg)


def _describe_kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a device or pipe"


def build_object(pairs: list[tuple[str, Any]], leaves_out: Collection[str] = ()) -> dict[str, Any]:
    """Builds an object; of a key that stands twice, `json` would silently keep the last value.

    Raises:
        UnusableContentError: A key stands twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        msg = f"the key {_shorten(twice)!r} stands twice in the same object; rename or remove one"
        raise UnusableContentError(msg)
    return {key: None if key in leaves_out else value for key, value in pairs} if leaves_out else content


def refuse_constant(name: str) -> float:
    """Refuses NaN and Infinity.

    Raises:
        UnusableContentError: Always.
    """
    msg = f"{name} is no number of JSON; give a finite number, or null where there is none"
    raise UnusableContentError(msg)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN_KEY else f"{text[:LONGEST_SHOWN_KEY]}..."


def check_values(parsed: Any, *, accepts_infinity: bool = False) -> None:
    """Checks depth and numbers level by level, as what is deeper exhausts the stack of whatever walks through it.

    Raises:
        UnusableContentError: A number does not fit into 64 bits.
        RecursionError: It is too deep.
    """
    level = [parsed]
    for _ in range(MOST_LEVELS + 1):
        below: list[Any] = []
        for part in level:
            kind = type(part)
            if kind is dict:
                below.extend(part.values())
            elif kind is list:
                below.extend(part)
            elif kind is int and not SMALLEST_INTEGER <= part <= LARGEST_INTEGER:
                raise UnusableContentError(_describe_integer(part))
            elif kind is float and not accepts_infinity and math.isinf(part):
                msg = "a number is larger than 64 bits can hold; correct it"
                raise UnusableContentError(msg)
        if not below:
            return
        level = below
    raise RecursionError


def _describe_integer(value: int) -> str:
    text = str(value)
    shown = text if len(text) <= LONGEST_SHOWN_NUMBER else f"{text[:LONGEST_SHOWN_NUMBER]}... ({len(text)} digits)"
    return f"the integer {shown} does not fit into 64 bits; correct the number"


def _check_surrogates(text: str, parsed: Any) -> None:
    """Checks that every text can be written again; an escape such as \\ud800 alone stands for no character."""
    if "\\ud" not in text and "\\uD" not in text:
        return
    try:
        json.dumps(parsed, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        msg = "a text holds half of a character (an escape \\ud800 to \\udfff without its other half); remove it"
        raise UnusableContentError(msg) from error


IRREGULARITIES: Final = (OSError, ValueError, RecursionError, UnusableContentError)


def read_entries(
    path: Path, take: Callable[[str, Any], None], *, keys: Collection[str], most_bytes: int
) -> dict[str, Any] | None:
    """Reads an object and returns it without the lists of the given keys; None if anything about the file is unusual.

    What is in memory at a time is a part of the file and one entry of such a list. `read_json` says what is wrong.

    Args:
        path: A regular file.
        take: Gets each key and entry of these lists; what it has got is void where None is returned.
        keys: Keys of the object.
        most_bytes: Larger files are unusual.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes:
            return None
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _Parser(file).parse_object(take, keys)
    except IRREGULARITIES:
        return None


class _Parser:
    """Parses the text of a file, of which a part is in memory."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.text = ""
        self.place = 0
        self.is_ended = False
        decoder = JSONDecoder(object_pairs_hook=build_object, parse_constant=refuse_constant)
        self.scan: Callable[[str, int], tuple[Any, int]] = decoder.scan_once  # type: ignore[attr-defined]

    def parse_object(self, take: Callable[[str, Any], None], keys: Collection[str]) -> dict[str, Any]:
        """Parses the object that the whole file must be."""
        content: dict[str, Any] = {}
        for _ in self._iterate("{", "}"):
            key = self._parse_value()
            self._expect(":")
            if not isinstance(key, str) or key in content:
                raise UnusableContentError
            if key in keys and self._find_next() == "[":
                for _ in self._iterate("[", "]"):
                    take(key, self._parse_value())
                content[key] = None
            else:
                content[key] = self._parse_value()
        if self._find_next():
            raise UnusableContentError
        return content

    def _iterate(self, opening: str, closing: str) -> Iterator[None]:
        """Yields before each entry between brackets, which must be parsed then."""
        self._expect(opening)
        is_over = self._find_next() == closing
        while not is_over:
            yield
            is_over = self._find_next() == closing
            if not is_over:
                self._expect(",")
        self._expect(closing)

    def _expect(self, character: str) -> None:
        if self._find_next() != character:
            raise UnusableContentError
        self.place += 1

    def _find_next(self) -> str:
        """Returns the next character that is not blank; none at the end."""
        while True:
            while self.place < len(self.text):
                character = self.text[self.place]
                if character not in BLANKS:
                    return character
                self.place += 1
            if self.is_ended:
                return ""
            self._read()

    def _parse_value(self) -> Any:
        self._find_next()
        while not self.is_ended and len(self.text) - self.place <= LONGEST_NUMBER:
            self._read()
        while True:
            try:
                value, end = self.scan(self.text, self.place)
            except (JSONDecodeError, StopIteration):
                if self.is_ended:
                    raise UnusableContentError from None
                self._read()  # it may continue there
            else:
                break
        if any(self.text.find(half, self.place, end) >= 0 for half in HALVES_OF_CHARACTERS):
            raise UnusableContentError
        check_values(value)
        self.place = end
        return value

    def _read(self) -> None:
        """Reads as much as there is already, at least, so that long values are not parsed often."""
        left = self.text[self.place :]
        more = self.file.read(max(PART_CHARACTERS, len(left)))
        self.is_ended = not more
        self.text, self.place = left + more, 0
