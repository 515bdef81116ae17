"""The mirror of a folder by URL: a local folder of the same names in the cache of this computer.

What the mirror and the URL had in common is remembered, so that a change on either side is recognized by sizes and
times alone.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from autoseg.document import MOST_RESULT_BYTES, Document, read_document, write_document
from autoseg.errors import DocumentError, RemoteError
from autoseg.file_endings import find_ending
from autoseg.files.temporary_files import TEMPORARY_NAME, name_temporary
from autoseg.processes.fold_lock import share_lock, wait_for_lock
from autoseg.remote.cache_folder import find_cache, is_in_cache
from autoseg.remote.store import RemoteVersion, Store
from autoseg.run_folder import make_folder, translate_write_errors
from autoseg.runtime.measurement_cache import find_measurement

ENDINGS_FETCHED_LATE: Final = (".safetensors", ".raw", ".zraw", ".raw.gz")
"""Endings of large files besides those of images: checkpoints, and voxels beside a header."""
KEPT_LOCAL: Final = "preprocessed"
"""Folder of a run that is not published: it can be made again from the images."""
ASIDE_ENDING: Final = ".earlier"
"""Ending of the name of a folder that is set aside."""
LONGEST_WAIT_SECONDS: Final = 6 * 3600.0  # another process of this computer may be publishing checkpoints


class MirrorRecord(Document):
    """What a mirror stands for; its name in the cache is derived from this.

    Attributes:
        is_file: Whether the URL names a single file and not a folder.
    """

    schema_version: Literal[1] = 1
    url: str
    is_file: bool = False


class SyncedFile(RemoteVersion):
    """The version of a file that the mirror and the URL had in common.

    Attributes:
        local_ns: Time of modification of the file in the mirror.
    """

    local_ns: int


class MirrorIndex(Document):
    """The files that a mirror and its URL had in common, by name."""

    most_bytes: ClassVar[int] = MOST_RESULT_BYTES

    schema_version: Literal[1] = 1
    files: dict[str, SyncedFile]


@dataclass(frozen=True, slots=True)
class UrlMirror:
    """A folder, or a file, by URL in the cache of this computer.

    Attributes:
        record: The URL that it stands for.
        folder: Folder of the mirror in the cache.
    """

    record: MirrorRecord
    folder: Path

    @property
    def root(self) -> Path:
        """The local folder or file that stands for the URL."""
        return self.folder / "files" / self.record.url.rpartition("/")[2]

    @property
    def index_path(self) -> Path:
        """Memory of what both sides had in common."""
        return self.folder / "index.json"

    @property
    def in_use(self) -> Path:
        """Lock of the commands that use the mirror; its time is that of the last use."""
        return self.folder / "in_use.lock"

    @property
    def sync_lock(self) -> Path:
        """Lock of the process that brings files up to date or publishes them."""
        return self.folder / "sync.lock"

    @property
    def base(self) -> Path:
        """The local folder to which the names of files are relative."""
        return self.root.parent if self.record.is_file else self.root

    @property
    def base_url(self) -> str:
        """The URL to which the names of files are relative."""
        return self.record.url.rpartition("/")[0] if self.record.is_file else self.record.url

    def open_store(self) -> Store:
        """Opens the place of the files.

        Raises:
            RemoteError: As `Store`.
        """
        return Store(self.base_url)

    def find_name(self, path: Path) -> str:
        """Returns the name of a local file below the URL."""
        return path.relative_to(self.base).as_posix()

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Context manager that keeps other processes from removing what is not published, to save space."""
        with share_lock(self.in_use):
            os.utime(self.in_use)
            yield

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Context manager for one process at a time that brings files up to date or publishes them."""
        with wait_for_lock(self.sync_lock, on_wait=lambda: None, longest_seconds=LONGEST_WAIT_SECONDS):
            yield

    def read_index(self) -> dict[str, SyncedFile]:
        """Reads what both sides had in common; nothing if that was lost."""
        try:
            return dict(read_document(self.index_path, MirrorIndex).files)
        except DocumentError:
            return {}

    def write_index(self, files: Mapping[str, SyncedFile]) -> None:
        """Writes what both sides have in common."""
        write_document(self.index_path, MirrorIndex(files=dict(files)), is_durable=False)

    def list_store(self, store: Store) -> dict[str, RemoteVersion]:
        """Lists the files of the URL, without preprocessed data of another computer."""
        if not self.record.is_file:
            found = store.list_files()
            return {name: version for name, version in found.items() if not name.startswith(f"{KEPT_LOCAL}/")}
        version = store.find_version(self.root.name)
        return {} if version is None else {self.root.name: version}

    def list_local(self, *, is_partial: bool = False) -> dict[str, os.stat_result]:
        """Lists the files of the mirror that belong to the URL: no locks, no temporary files, nothing kept local.

        Args:
            is_partial: Whether folders that cannot be listed are passed over; their files then seem to be removed.

        Raises:
            RemoteError: A folder cannot be listed.
        """
        if self.record.is_file:
            return {self.root.name: self.root.stat()} if self.root.is_file() else {}
        found = {}
        for place, folders, names in os.walk(self.root, onerror=None if is_partial else _refuse_unlisted_folder):
            is_top = Path(place) == self.root
            folders[:] = [name for name in folders if not (_is_private(name) or (is_top and name == KEPT_LOCAL))]
            for path in (Path(place, name) for name in names if not _is_private(name)):
                with suppress(FileNotFoundError):  # removed meanwhile
                    found[self.find_name(path)] = path.stat()
        return found


def open_mirror(url: str, *, is_file: bool | None = None) -> UrlMirror:
    """Opens the mirror of a URL in the cache; nothing is listed or fetched yet.

    Args:
        url: Folder or file, which need not exist.
        is_file: Whether it is a file; None asks.

    Raises:
        RemoteError: The URL cannot be used or reached.
    """
    url = url.rstrip("/")
    record = MirrorRecord(url=url, is_file=Store(url).is_file() if is_file is None else is_file)
    described = find_measurement(find_cache(), record)
    if not described.is_file():
        write_document(described, record)
    mirror = UrlMirror(record, described.with_suffix(""))
    make_folder(mirror.root.parent)
    return mirror


def find_mirror(path: Path) -> UrlMirror | None:
    """Finds the mirror to which a local path belongs; None for other paths."""
    try:
        folder = find_cache() / path.relative_to(find_cache()).parts[0]
        return UrlMirror(read_document(folder.with_suffix(".json"), MirrorRecord), folder)
    except (ValueError, IndexError, DocumentError):
        return None


def find_location(path: Path) -> str:
    """Returns where a file or folder lies: its URL, or its path if it is no part of a mirror."""
    mirror = find_mirror(path) if is_in_cache(path) else None
    if mirror is None or not path.is_relative_to(mirror.base):
        return str(path)
    name = mirror.find_name(path)
    return mirror.base_url if name == "." else f"{mirror.base_url}/{name}"


def name_urls(text: str) -> str:
    """Writes the URLs in place of the local paths of mirrors in a text."""
    pattern = (
        rf"({re.escape(str(find_cache()))}{re.escape(os.sep)}[0-9a-f]+){re.escape(os.sep)}files{re.escape(os.sep)}"
    )
    for folder in dict.fromkeys(re.findall(pattern, text)):
        mirror = find_mirror(Path(folder) / "files")
        if mirror is not None:
            text = text.replace(str(mirror.root), mirror.record.url)
    return text


def is_placeholder(found: os.stat_result) -> bool:
    """Returns whether a file of a mirror only stands for one that was not fetched: its owner may not write it."""
    return not found.st_mode & stat.S_IWUSR


def write_placeholder(path: Path, version: RemoteVersion) -> None:
    """Writes a file of the size and time of one that is not fetched; it takes no space, and others may not read it."""
    make_folder(path.parent)
    temporary = name_temporary(path)
    try:
        with translate_write_errors(path):
            temporary.touch()
            os.truncate(temporary, version.size_bytes)
            os.utime(temporary, ns=(version.modified_ns, version.modified_ns))
            temporary.chmod(0)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_fetched_late(name: str) -> bool:
    """Returns whether a file is fetched only when it is read: an image, or a checkpoint."""
    return find_ending(name) is not None or name.lower().endswith(ENDINGS_FETCHED_LATE)


def is_set_aside(path: Path) -> bool:
    """Returns whether a file is missing because its folder has another name until something new takes its place."""
    return any(name_aside(folder).exists() for folder in path.parents if folder.name)


def name_aside(folder: Path) -> Path:
    """Returns the other name that a folder gets while it is set aside."""
    return folder.with_name(f".{folder.name}{ASIDE_ENDING}")


def list_set_aside(parent: Path, prefix: str) -> list[Path]:
    """Lists the folders below another one that are set aside, by their own names, which begin with a prefix."""
    found = sorted(parent.glob(f".{prefix}*{ASIDE_ENDING}"))
    return [path.with_name(path.name.removeprefix(".").removesuffix(ASIDE_ENDING)) for path in found]


def _refuse_unlisted_folder(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # removed meanwhile
        return
    msg = f"cannot list {error.filename} ({error.strerror}); nothing is removed or published: repeat the command"
    raise RemoteError(msg) from error


def _is_private(name: str) -> bool:
    return name.startswith(".") and (
        name.endswith((".lock", ASIDE_ENDING)) or TEMPORARY_NAME.fullmatch(name) is not None
    )
