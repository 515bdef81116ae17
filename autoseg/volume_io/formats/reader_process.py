"""Reads files in a child process, where a library may crash on a damaged file without taking the program along.

ITK's readers of HDF5, MINC, DICOM, VTK, GIPL and MRC follow offsets and counts of the file inside of C and C++
libraries. One child serves all files of a process; it is replaced if it dies, and ends with its parent, even in a read.
"""

import atexit
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, Final, Literal

import numpy as np

from autoseg.errors import AutosegError, VolumeError
from autoseg.geometry import Grid
from autoseg.processes.parent_watch import EXIT_CODE
from autoseg.volume_io.formats.volumes import StoredVolume

Message = dict[str, Any]
Wanted = Literal["image", "labels", "grid", "tags"]

LEAST_SECONDS: Final = 120.0
SLOWEST_BYTES_PER_SECOND: Final = 2e6  # of a network drive
SECONDS_TO_END: Final = 10.0  # after the child has closed its pipe: a dump of its memory may be written
LENGTH_BYTES: Final = 8
PIPE_BYTES: Final = 2**20
ROOT: Final = Path(__file__).resolve().parents[3]
PROGRAM: Final = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    f"from autoseg.volume_io.formats.reader_process import serve; serve()"
)


class _Child:
    """The child process of this process, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process ID of the child; None before it is first needed."""
        return None if self._process is None else self._process.pid

    def call(self, path: Path, request: Message) -> tuple[Message, np.ndarray | None]:
        """Has a function of a reader called; returns what the child answers, and the voxels.

        Raises:
            VolumeError: The reader raised an error, the child died, took too long, or could not be started.
        """
        with self._lock:
            seconds = LEAST_SECONDS + path.stat().st_size / SLOWEST_BYTES_PER_SECOND
            process, timer = self._start_limited(path, seconds)
            try:
                reply, array = _exchange(process, request)
            except (EOFError, BrokenPipeError) as error:
                is_late = not timer.is_alive()
                code = _end(process)
                self.stop()
                end = f"takes more than {seconds:.0f} s" if is_late else f"crashes its library ({_describe_end(code)})"
                msg = f"{path} cannot be read: it {end}; the file is damaged, or memory is short; copy it again"
                raise VolumeError(msg) from error
            except BaseException:  # an interruption leaves the rest of a reply in the pipe
                self.stop()
                raise
            finally:
                timer.cancel()
        for name, level, text, arguments in reply["warnings"]:
            logging.getLogger(name).log(level, text, *arguments)
        _raise_error(reply)
        return reply, array

    def _start_limited(self, path: Path, seconds: float) -> tuple["subprocess.Popen[bytes]", threading.Timer]:
        """Starts the child if necessary, and a timer that kills it."""
        try:
            process = self._start()
            timer = threading.Timer(seconds, process.kill)
            timer.start()
        except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            msg = (
                f"{path} cannot be read now: the process that reads such files cannot be started ({error}); the file "
                f"is not the reason: close other programs, or raise the limits on processes, open files and memory"
            )
            raise VolumeError(msg) from error
        return process, timer

    def _start(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.stop()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=sys.platform != "win32",  # Ctrl-C on the terminal is for the parent
        )
        self._owner = os.getpid()
        _enlarge_pipe(self._process)
        return self._process

    def stop(self) -> None:
        """Ends the child, if there is one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            with process:  # closes the pipes and waits
                process.kill()


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Returns the exit code of a child that has closed its pipe; one that does not end is killed."""
    try:
        return process.wait(SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(SECONDS_TO_END)


CHILD: Final = _Child()
atexit.register(CHILD.stop)


@dataclass(frozen=True, slots=True)
class IsolatedReader:
    """A module that reads a family of file formats, in the child.

    Attributes:
        module: Its name.
    """

    module: str

    def read(self, path: Path, *, as_labels: bool) -> StoredVolume:
        """Reads all voxels."""
        reply, array = self._call(path, "labels" if as_labels else "image")
        assert array is not None
        return StoredVolume(array=array, grid=_build_grid(reply["grid"]))

    def read_grid(self, path: Path) -> Grid:
        """Reads the header."""
        reply, _ = self._call(path, "grid")
        return _build_grid(reply["grid"])

    def read_tags(self, path: Path) -> dict[str, str]:
        """Has the module's function `read_tags` called."""
        reply, _ = self._call(path, "tags")
        return dict(reply["tags"])

    def _call(self, path: Path, wanted: Wanted) -> tuple[Message, np.ndarray | None]:
        request = {"module": self.module, "path": os.fsencode(path).hex(), "wanted": wanted}
        if not path.is_absolute():  # the working folder may have changed since the child began
            request["folder"] = os.fsencode(Path.cwd()).hex()
        return CHILD.call(path, request)


def serve() -> None:
    """Answers requests from standard input until that ends, which ends the process; the program of the child.

    Messages are JSON after their length; the voxels follow as they lie in memory.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the replies
    requests: SimpleQueue[Message] = SimpleQueue()
    pipe = os.fdopen(os.dup(0), "rb", buffering=0)  # a buffer would be locked while the program ends
    threading.Thread(target=_pass_requests, args=(pipe, requests), name="parent watch", daemon=True).start()
    while True:
        reply, array = _answer(requests.get())
        _send(replies, reply)
        if array is not None:
            replies.write(array.reshape(-1).view(np.uint8).data)
        replies.flush()


def _pass_requests(pipe: IO[bytes], requests: "SimpleQueue[Message]") -> None:
    """Exits at once, also in the middle of a read, when the parent has died and the pipe has ended."""
    try:
        while (request := _receive(pipe)) is not None:
            requests.put(request)
    finally:
        os._exit(EXIT_CODE)


class _Collector(logging.Handler):
    """Collects warnings for the parent."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[tuple[str, int, str, list[str | float]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        values = [value.item() if isinstance(value, np.generic) else value for value in arguments]
        plain = [value if isinstance(value, int | float) else str(value) for value in values]
        self.found.append((record.name, record.levelno, str(record.msg), plain))


def _build_grid(fields: Message) -> Grid:
    direction = tuple(tuple(axis) for axis in fields["direction"])
    triples = {name: tuple(fields[name]) for name in ("shape_voxels", "spacing_mm", "origin_mm")}
    return Grid(**{**fields, **triples, "direction": direction})


def _answer(request: Message) -> tuple[Message, np.ndarray | None]:
    collector = _Collector()
    logging.getLogger().addHandler(collector)
    try:
        reply, array = _read(request)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        is_told = isinstance(error, AutosegError)
        kind = "told" if is_told else "memory" if isinstance(error, MemoryError) else "other"
        reply, array = {"error": kind, "text": str(error) if is_told else lines[-1]}, None
    finally:
        logging.getLogger().removeHandler(collector)
    return {**reply, "warnings": collector.found}, array


def _read(request: Message) -> tuple[Message, np.ndarray | None]:
    reader = importlib.import_module(request["module"])
    if "folder" in request:
        os.chdir(os.fsdecode(bytes.fromhex(request["folder"])))
    path = Path(os.fsdecode(bytes.fromhex(request["path"])))
    wanted: Wanted = request["wanted"]
    if wanted == "tags":
        return {"tags": reader.read_tags(path)}, None
    if wanted == "grid":
        return {"grid": asdict(reader.read_grid(path))}, None
    stored = reader.read(path, as_labels=wanted == "labels")
    array = np.ascontiguousarray(stored.array)
    return {"grid": asdict(stored.grid), "shape": array.shape, "dtype": array.dtype.str}, array


def _raise_error(reply: Message) -> None:
    kind = reply.get("error")
    if kind == "memory":
        raise MemoryError
    if kind is not None:
        raise (VolumeError if kind == "told" else RuntimeError)(reply["text"])


def _exchange(process: "subprocess.Popen[bytes]", request: Message) -> tuple[Message, np.ndarray | None]:
    assert process.stdin is not None
    assert process.stdout is not None
    _send(process.stdin, request)
    reply = _receive(process.stdout)
    if reply is None:
        raise EOFError
    if "shape" not in reply:
        return reply, None
    array = np.empty(reply["shape"], reply["dtype"])
    view = array.reshape(-1).view(np.uint8).data
    position = 0
    while position < len(view):
        count = process.stdout.readinto(view[position:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        position += count
    return reply, array


def _send(stream: IO[bytes], message: Message) -> None:
    content = json.dumps(message, default=float).encode()
    stream.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> Message | None:
    """Returns the next message; None at the end."""
    length = _read_exactly(stream, LENGTH_BYTES)
    content = None if length is None else _read_exactly(stream, int.from_bytes(length, "little"))
    return None if content is None else dict(json.loads(content))


def _read_exactly(stream: IO[bytes], count: int) -> bytes | None:
    content = b""
    while len(content) < count:
        piece = stream.read(count - len(content))
        if not piece:
            return None
        content += piece
    return content


def _enlarge_pipe(process: "subprocess.Popen[bytes]") -> None:
    """Makes room for more voxels at once, where the system can (Linux), which halves the time of the transfer."""
    assert process.stdout is not None
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _describe_end(code: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"exit code {code}"
