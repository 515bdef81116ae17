"""Reads gzip files up to the last whole member, where something else follows it."""

import io
import logging
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, Any, Final

LOGGER = logging.getLogger(__name__)

CHUNK_BYTES: Final = 2**20
GZIP_MAGIC: Final = b"\x1f\x8b"


class _WholeMembers(io.RawIOBase):
    """Decompresses member by member; what is no further member is ignored, with a warning."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] = path.open("rb")
        self._rest = b""
        self._inflater: Any = None

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Fills a part of the buffer; 0 at the end."""
        while True:
            if self._inflater is None and not self._begin_member():
                return 0
            if self._inflater.needs_input and not self._fill():
                msg = "Compressed file ended before the end-of-stream marker was reached"
                raise EOFError(msg)
            made: bytes = self._inflater.decompress(self._take(), len(buffer))
            if self._inflater.eof:
                self._rest, self._inflater = self._inflater.unused_data, None
            if made:
                buffer[: len(made)] = made
                return len(made)

    def _begin_member(self) -> bool:
        from isal import igzip_lib

        self._rest = self._rest.lstrip(b"\0")
        while len(self._rest) < len(GZIP_MAGIC) and self._fill():
            self._rest = self._rest.lstrip(b"\0")
        if not self._rest.startswith(GZIP_MAGIC):
            if self._rest:
                LOGGER.warning("%s: text or other bytes after the end of the compressed data are ignored", self._path)
            self._rest = b""
            return False
        self._inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
        return True

    def _fill(self) -> bool:
        if self._inflater is not None and self._rest:
            return True
        piece = self._file.read(CHUNK_BYTES)
        self._rest += piece
        return bool(piece)

    def _take(self) -> bytes:
        taken, self._rest = (self._rest, b"") if self._inflater.needs_input else (b"", self._rest)
        return taken


def open_whole_members(path: Path) -> io.BufferedReader:
    """Opens a gzip file for reading up to the end of its last whole member.

    Raises:
        BadGzipFile: It does not begin with a member.
    """
    with path.open("rb") as stream:
        if stream.read(len(GZIP_MAGIC)) != GZIP_MAGIC:
            msg = "Not a gzipped file"
            raise BadGzipFile(msg)
    return io.BufferedReader(_WholeMembers(path), CHUNK_BYTES)
