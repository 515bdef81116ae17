"""Reads files in a child process, where a library may crash on a damaged file without taking the program along.

ITK's readers of HDF5, MINC, DICOM, VTK, GIPL and MRC follow offsets and counts of the file inside of C and C++
libraries. One child serves all files of a process; it is replaced if it dies, and ends with its parent.
"""

import atexit
import importlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from autoseg.errors import AutosegError, VolumeError
from autoseg.geometry import Grid
from autoseg.volume_io.formats.volumes import StoredVolume

LEAST_SECONDS: Final = 120.0
SLOWEST_BYTES_PER_SECOND: Final = 2e6  # of a network drive
LENGTH_BYTES: Final = 8
ROOT: Final = Path(__file__).resolve().parents[3]
PROGRAM: Final = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    f"from autoseg.volume_io.formats.reader_process import serve; serve()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the child is to do: to call a function of a module of this package."""

    module: str
    function: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """What the child answers; the voxels follow.

    Attributes:
        result: A grid, the description of voxels (shape and dtype), or an error.
        grid: Grid of the voxels.
        warnings: Logger, level, text and arguments of each.
    """

    result: Any
    grid: Grid | None
    warnings: list[tuple[str, int, str, Any]]


class _Child:
    """The child process of this process, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def call(self, path: Path, request: _Request) -> Any:
        """Has a function called; returns its result.

        Raises:
            VolumeError: It raised an error, died, or took too long.
        """
        with self._lock:
            process = self._start()
            seconds = LEAST_SECONDS + path.stat().st_size / SLOWEST_BYTES_PER_SECOND
            timer = threading.Timer(seconds, process.kill)
            timer.start()
            try:
                result = _exchange(process, request)
            except (EOFError, BrokenPipeError) as error:
                is_late = not timer.is_alive()
                code = process.wait()
                self.stop()
                end = f"takes more than {seconds:.0f} s" if is_late else f"crashes its library ({_describe_end(code)})"
                msg = f"{path} cannot be read: it {end}; the file is damaged, or memory is short; copy it again"
                raise VolumeError(msg) from error
            except BaseException:  # an interruption leaves the rest of a reply in the pipe
                self.stop()
                raise
            finally:
                timer.cancel()
        if isinstance(result, Exception):
            raise result
        return result

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=sys.platform != "win32",  # Ctrl-C on the terminal is for the parent
        )
        self._owner = os.getpid()
        return self._process

    def stop(self) -> None:
        """Ends the child, if there is one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            with process:  # closes the pipes and waits
                process.kill()


CHILD: Final = _Child()
atexit.register(CHILD.stop)


def read(path: Path, *, as_labels: bool) -> StoredVolume:
    """Reads all voxels in the child."""
    volume = CHILD.call(path, _build_request(path, "read", as_labels=as_labels))
    assert isinstance(volume, StoredVolume)
    return volume


def read_grid(path: Path) -> Grid:
    """Reads the header in the child."""
    grid = CHILD.call(path, _build_request(path, "read_grid"))
    assert isinstance(grid, Grid)
    return grid


def serve() -> None:
    """Answers requests from standard input until it ends; the program of the child."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    while (request := _receive(sys.stdin.buffer)) is not None:
        reply, array = _answer(request)
        _send(replies, reply)
        if array is not None:
            replies.write(array.reshape(-1).view(np.uint8).data)
        replies.flush()


class _Collector(logging.Handler):
    """Collects warnings for the parent."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[str, int, str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.name, record.levelno, str(record.msg), record.args))


def _build_request(path: Path, function: str, **arguments: Any) -> _Request:
    from autoseg.volume_io.formats import find_direct_reader

    return _Request(module=find_direct_reader(path), function=function, arguments={"path": path, **arguments})


def _answer(request: _Request) -> tuple[_Reply, np.ndarray | None]:
    collector = _Collector()
    logging.getLogger().addHandler(collector)
    try:
        result = getattr(importlib.import_module(request.module), request.function)(**request.arguments)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        failure = error if isinstance(error, AutosegError) else RuntimeError(reason)
        if isinstance(error, MemoryError):
            failure = MemoryError()
        return _Reply(result=failure, grid=None, warnings=collector.found), None
    finally:
        logging.getLogger().removeHandler(collector)
    if isinstance(result, Grid):
        return _Reply(result=result, grid=None, warnings=collector.found), None
    array = np.ascontiguousarray(result.array)
    return _Reply(result=(array.shape, array.dtype), grid=result.grid, warnings=collector.found), array


def _exchange(process: "subprocess.Popen[bytes]", request: _Request) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    _send(process.stdin, request)
    reply = _receive(process.stdout)
    if reply is None:
        raise EOFError
    for name, level, text, arguments in reply.warnings:
        logging.getLogger(name).log(level, text, *arguments)
    if reply.grid is None:
        return reply.result
    shape, dtype = reply.result
    array = np.empty(shape, dtype)
    view = array.reshape(-1).view(np.uint8).data
    position = 0
    while position < len(view):
        count = process.stdout.readinto(view[position:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        position += count
    return StoredVolume(array=array, grid=reply.grid)


def _send(stream: IO[bytes], message: object) -> None:
    content = pickle.dumps(message)
    stream.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """Returns the next message; None at the end."""
    length = _read_exactly(stream, LENGTH_BYTES)
    content = None if length is None else _read_exactly(stream, int.from_bytes(length, "little"))
    return None if content is None else pickle.loads(content)


def _read_exactly(stream: IO[bytes], count: int) -> bytes | None:
    content = b""
    while len(content) < count:
        piece = stream.read(count - len(content))
        if not piece:
            return None
        content += piece
    return content


def _describe_end(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"
