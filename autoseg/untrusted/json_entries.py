"""Reads a JSON object whose lists have an entry for every case, one entry after the other.

What is in memory at a time is a part of the file and one entry. Whatever is not as autoseg writes it is left to
`read_json`, which reads the whole document and says what is wrong.
"""

import stat
from collections.abc import Callable, Collection, Iterator
from json import JSONDecodeError
from json.decoder import JSONDecoder
from pathlib import Path
from typing import Any, Final, TextIO

from autoseg.untrusted.json_reading import UnusableContentError, build_object, check_values, refuse_constant

PART_CHARACTERS: Final = 2**16
LONGEST_NUMBER: Final = 64  # characters; a longer one may look as if it ended with the part that is read
BLANKS: Final = " \t\n\r"
HALVES_OF_CHARACTERS: Final = ("\\ud", "\\uD")
IRREGULARITIES: Final = (OSError, ValueError, RecursionError, UnusableContentError)


def read_entries(
    path: Path, take: Callable[[str, Any], None], *, keys: Collection[str], most_bytes: int
) -> dict[str, Any] | None:
    """Reads an object and returns it without the lists of the given keys; None if anything about the file is unusual.

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
