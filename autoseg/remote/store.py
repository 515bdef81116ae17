"""Files below a URL: listed, downloaded and published whole, with repetition of what fails."""

import importlib.util
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar

from autoseg.document import Part
from autoseg.errors import RemoteError
from autoseg.files.temporary_files import name_temporary
from autoseg.remote.address import CONNECTED_PROTOCOLS, EXTRAS, OBJECT_STORES, check_url, find_protocol
from autoseg.remote.retrying import TruncatedTransferError, retry
from autoseg.run_folder import make_folder

Result = TypeVar("Result")

TIME_KEYS: Final = ("LastModified", "last_modified", "mtime", "updated", "created")
TAG_KEYS: Final = ("ETag", "etag", "generation", "md5Hash", "content_md5")
NS_PER_SECOND: Final = 10**9
LONGEST_SILENCE_SECONDS: Final = 120.0
UNFINISHED: Final = ".autoseg-unfinished-"


class RemoteVersion(Part):
    """What a listing tells of a file.

    Attributes:
        modified_ns: Time of modification; 0 where the protocol tells none.
        tag: Identifies the content, such as the ETag of S3; empty where the protocol has none.
    """

    size_bytes: int
    modified_ns: int
    tag: str = ""

    def is_same(self, other: "RemoteVersion") -> bool:
        """Returns whether two listings show the same version of a file."""
        if self.tag and other.tag:
            return (self.size_bytes, self.tag) == (other.size_bytes, other.tag)
        return (self.size_bytes, self.modified_ns) == (other.size_bytes, other.modified_ns)


class Store:
    """The files below a URL, by names relative to it."""

    def __init__(self, url: str) -> None:
        """Checks the URL; its server is not asked yet.

        Raises:
            RemoteError: The protocol is unknown, its package is missing, or the URL holds a secret.
        """
        check_url(url)
        self.url = url
        self._root = str(_find_file_system(url)._strip_protocol(url)).rstrip("/")
        self._is_object_store = find_protocol(url) in OBJECT_STORES
        self._has_connection = find_protocol(url) in CONNECTED_PROTOCOLS
        self._turn = threading.RLock() if self._has_connection else nullcontext()
        self._opened: Any = None

    @property
    def _files(self) -> Any:
        """The file system of fsspec, which may connect to its server when it is opened."""
        import fsspec

        if self._opened is None:
            options = {"skip_instance_cache": True} if self._has_connection else {}
            files, _ = fsspec.core.url_to_fs(self.url, **options)
            if self._has_connection and hasattr(files, "ftp"):  # otherwise a server that is silent is waited for
                files.ftp.get_channel().settimeout(LONGEST_SILENCE_SECONDS)
            self._opened = files
        return self._opened

    def describe(self, name: str) -> str:
        """Returns the URL of a file."""
        return f"{self.url}/{name}"

    def is_file(self) -> bool:
        """Returns whether the URL names a single file.

        Raises:
            RemoteError: The place cannot be reached.
        """
        try:
            found = self._try(lambda: self._ask(self._root), what=f"read {self.url}")
        except FileNotFoundError:
            return False
        return str(found["type"]) == "file"

    def list_files(self) -> dict[str, RemoteVersion]:
        """Lists all files below the URL; none if there is no such folder.

        Raises:
            RemoteError: They cannot be listed.
        """
        try:
            found = self._try(self._list_all, what=f"list {self.url}")
        except FileNotFoundError:
            return {}
        names = {path: path.removeprefix(self._root).lstrip("/") for path in found}
        return {name: _read_version(found[path]) for path, name in names.items() if _is_name_of_file(name)}

    def find_version(self, name: str) -> RemoteVersion | None:
        """Returns the present version of a file; None if there is none.

        Raises:
            RemoteError: The place cannot be reached.
        """
        try:
            return _read_version(self._try(lambda: self._ask(self._place(name)), what=f"read {self.describe(name)}"))
        except FileNotFoundError:
            return None

    def download(self, name: str, target: Path, *, expected: RemoteVersion | None = None) -> RemoteVersion:
        """Downloads a file: `target` appears, or is replaced, when it is complete.

        Args:
            name: Name of the file.
            target: Local path.
            expected: Size and time of the version that is wanted; None for the present one.

        Raises:
            RemoteError: It cannot be read, or is another version.
            FileNotFoundError: It does not exist.
        """
        place, temporary = self._place(name), name_temporary(target)

        def transfer() -> RemoteVersion:
            version = _read_version(self._ask(place))
            self._check_version(name, version, expected)
            self._files.get_file(place, str(temporary))
            _compare_sizes(temporary.stat().st_size, version.size_bytes)
            return version

        make_folder(target.parent)
        try:
            version = self._try(transfer, what=f"read {self.describe(name)}")
            os.utime(temporary, ns=(version.modified_ns, version.modified_ns))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return version

    def upload(self, source: Path, name: str) -> RemoteVersion:
        """Publishes a file: its name shows the old content or the whole new one, never a part.

        Raises:
            RemoteError: It cannot be written.
            FileNotFoundError: The local file is missing.
        """
        place = self._place(name)

        def transfer() -> RemoteVersion:
            size_bytes = source.stat().st_size
            if self._is_object_store:
                self._files.put_file(str(source), place)
            else:
                self._upload_beside(source, place, size_bytes)
            version = _read_version(self._ask(place))
            _compare_sizes(version.size_bytes, size_bytes)
            return version

        try:
            return self._try(transfer, what=f"write {self.describe(name)}")
        except FileNotFoundError as error:
            if not source.exists():
                raise
            msg = f"cannot write {self.describe(name)}: there is no such bucket or folder; create it"
            raise RemoteError(msg) from error

    def remove(self, name: str) -> None:
        """Removes a file, if it exists.

        Raises:
            RemoteError: It cannot be removed.
        """
        with suppress(FileNotFoundError):
            self._try(lambda: self._files.rm_file(self._place(name)), what=f"remove {self.describe(name)}")

    def _try(self, action: Callable[[], Result], *, what: str) -> Result:
        """Calls a function that uses the file system until it succeeds, a limited number of times."""

        def act() -> Result:
            try:
                return action()
            except Exception:
                if self._has_connection:
                    self._opened = None  # the next try connects again
                raise

        with self._turn:
            return retry(act, what=what)

    def _check_version(self, name: str, found: RemoteVersion, expected: RemoteVersion | None) -> None:
        """Compares times by the second, as headers of HTTP tell no more than that."""
        if expected is None:
            return
        is_same_time = abs(found.modified_ns - expected.modified_ns) < NS_PER_SECOND
        if found.size_bytes != expected.size_bytes or not is_same_time:
            msg = f"{self.describe(name)} has been replaced since it was listed; repeat the command"
            raise RemoteError(msg)

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _ask(self, place: str) -> Mapping[str, Any]:
        """Asks the server for a file, whatever was listed before."""
        self._files.invalidate_cache(str(PurePosixPath(place).parent))
        found: Mapping[str, Any] = self._files.info(place)
        return found

    def _list_all(self) -> dict[str, Mapping[str, Any]]:
        self._files.invalidate_cache()
        if self._is_object_store:
            found: dict[str, Mapping[str, Any]] = self._files.find(self._root, detail=True)
            return found
        listed, folders = {}, [self._root or "/"]
        while folders:  # `find` of fsspec passes over folders that cannot be listed
            for entry in self._files.ls(folders.pop(), detail=True):
                if entry["type"] == "directory":
                    folders.append(entry["name"])
                else:
                    listed[entry["name"]] = entry
        return listed

    def _upload_beside(self, source: Path, place: str, size_bytes: int) -> None:
        """Writes under a temporary name, which is changed when the file is complete."""
        folder, _, name = place.rpartition("/")
        temporary = f"{folder}/{UNFINISHED}{secrets.token_hex(4)}-{name}"
        self._files.makedirs(folder, exist_ok=True)
        try:
            self._files.put_file(str(source), temporary)
            _compare_sizes(_read_version(self._ask(temporary)).size_bytes, size_bytes)
            self._files.mv(temporary, place)
        except BaseException:
            with suppress(Exception):  # the error that led here is the one to report
                self._files.rm_file(temporary)
            raise


def _find_file_system(url: str) -> Any:
    import fsspec

    protocol = find_protocol(url)
    extra, package = EXTRAS.get(protocol, ("", ""))
    if package and importlib.util.find_spec(package) is None:
        msg = f"{url} needs the package {package}, which is not installed; run: pip install 'autoseg[{extra}]'"
        raise RemoteError(msg)
    try:
        return fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        msg = f"{url} cannot be opened: {error}; protocols with an extra of autoseg: {', '.join(EXTRAS)}"
        raise RemoteError(msg) from error


def _compare_sizes(found: int, expected: int) -> None:
    if found != expected:
        msg = f"expected {expected} bytes, found {found}"
        raise TruncatedTransferError(msg)


def _is_name_of_file(name: str) -> bool:
    """Returns whether a listed name is that of a file: not of the empty object that stands for a folder in a store, as
    consoles make it, nor of an unfinished file."""
    is_folder = not name or name.endswith("/")
    return (
        not is_folder and not PurePosixPath(name).name.startswith(UNFINISHED) and ".." not in PurePosixPath(name).parts
    )


def _read_version(entry: Mapping[str, Any]) -> RemoteVersion:
    moment = next((entry[key] for key in TIME_KEYS if entry.get(key)), 0)
    tag = next((entry[key] for key in TAG_KEYS if entry.get(key)), "")
    return RemoteVersion(size_bytes=int(entry.get("size") or 0), modified_ns=_read_time_ns(moment), tag=str(tag))


def _read_time_ns(moment: Any) -> int:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    seconds = moment.timestamp() if isinstance(moment, datetime) else float(moment)
    return int(seconds * 1e6) * 1000
