"""The one reader of XML: no entities, a limit on size and on depth."""

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from xml.parsers import expat

from autoseg.errors import DocumentError

MOST_XML_BYTES: Final = 2**27  # 128 MiB; outlines of 100,000 nuclei take about 60
MOST_XML_LEVELS: Final = 64
PART_BYTES: Final = 2**20

StartHandler = Callable[[str, Mapping[str, str]], None]


class _RefusedXmlError(Exception):
    """The document is XML that this reader refuses; the text says why."""


def read_xml(path: Path, start: StartHandler) -> None:
    """Reads an XML file from its beginning to its end and calls `start` with the name and attributes of every element.

    A document type definition is refused, since entities are declared there, which could grow without bounds or name
    other files.

    Raises:
        DocumentError: The file cannot be read, is no XML, too large or too deep, or has a document type definition.
    """
    try:
        status = path.stat()
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            msg = f"{path} cannot be read: expected a file, found a folder, device or pipe"
            raise DocumentError(msg)
        if size > MOST_XML_BYTES:
            msg = f"{path} has {size / 2**20:.0f} MiB; expected XML of at most {MOST_XML_BYTES / 2**20:.0f} MiB"
            raise DocumentError(msg)
        with path.open("rb") as file:
            parser = _build_parser(start)
            while part := file.read(PART_BYTES):
                parser.Parse(part, False)
            parser.Parse(b"", True)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise DocumentError(msg) from error
    except expat.ExpatError as error:
        msg = f"{path}, line {error.lineno}, column {error.offset}: not valid XML: {expat.ErrorString(error.code)}"
        raise DocumentError(msg) from error
    except _RefusedXmlError as error:
        msg = f"{path}: {error}"
        raise DocumentError(msg) from error


def _build_parser(start: StartHandler) -> expat.XMLParserType:
    level = 0

    def enter(name: str, attributes: dict[str, str]) -> None:
        nonlocal level
        level += 1
        if level > MOST_XML_LEVELS:
            msg = (
                f"elements are nested in more than {MOST_XML_LEVELS} levels, as in no annotation; is it the right file?"
            )
            raise _RefusedXmlError(msg)
        start(name, attributes)

    def leave(_: str) -> None:
        nonlocal level
        level -= 1

    parser = expat.ParserCreate()
    parser.StartElementHandler = enter
    parser.EndElementHandler = leave
    parser.StartDoctypeDeclHandler = _refuse_doctype
    return parser


def _refuse_doctype(*_: object) -> None:
    msg = "it has a document type definition (<!DOCTYPE ...>), which annotations do not need; remove it"
    raise _RefusedXmlError(msg)
