"""Object stores in memory whose names and listings are those of gcsfs (Google) and adlfs (Azure)."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractFileSystem


class CloudFiles(AbstractFileSystem):
    """Objects by `bucket/name`; there are no folders, and no object is seen before it is complete."""

    cachable = False
    objects: ClassVar[dict[str, tuple[bytes, datetime]]] = {}

    def describe(self, content: bytes, moment: datetime) -> Mapping[str, Any]:
        """Returns what a listing tells of an object beside its name and size."""
        raise NotImplementedError

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path in self.objects:
            content, moment = self.objects[path]
            return {"name": path, "size": len(content), "type": "file", **self.describe(content, moment)}
        if any(name.startswith(f"{path}/") for name in self.objects):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any) -> dict[str, Any]:
        folder = f"{self._strip_protocol(path)}/"
        return {name: self.info(name) for name in sorted(self.objects) if name.startswith(folder)}

    def get_file(self, rpath: str, lpath: str, *args: Any, **kwargs: Any) -> None:
        self.info(rpath)
        Path(lpath).write_bytes(self.objects[self._strip_protocol(rpath)][0])

    def put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        self.objects[self._strip_protocol(rpath)] = Path(lpath).read_bytes(), datetime.now(UTC)

    def rm_file(self, path: str) -> None:
        del self.objects[self._strip_protocol(path)]


class GoogleFiles(CloudFiles):
    """As gcsfs describes objects: times as texts of the service and as numbers of Python, a generation."""

    protocol = ("gs", "gcs")

    def describe(self, content: bytes, moment: datetime) -> Mapping[str, Any]:
        told = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        generation = str(int(moment.timestamp() * 1e6))
        return {"updated": told, "mtime": moment, "generation": generation, "etag": f"C{generation}=", "kind": "object"}


class AzureFiles(CloudFiles):
    """As adlfs describes blobs."""

    protocol = ("az", "abfs", "abfss")

    def describe(self, content: bytes, moment: datetime) -> Mapping[str, Any]:
        digest = bytearray(hashlib.md5(content).digest())
        return {
            "creation_time": moment,
            "last_modified": moment.replace(microsecond=0),
            "etag": f"0x8D{int(moment.timestamp() * 1e7):X}",
            "content_settings": {"content_md5": digest},
            "metadata": None,
            "tags": None,
        }


CLOUDS: dict[str, type[CloudFiles]] = {"gs": GoogleFiles, "az": AzureFiles, "abfs": AzureFiles}


def open_cloud(protocol: str, monkeypatch: pytest.MonkeyPatch) -> type[CloudFiles]:
    """Opens an empty store in place of that of a protocol, whose package need not be installed."""
    fsspec.register_implementation(protocol, CLOUDS[protocol], clobber=True)
    monkeypatch.setattr("autoseg.remote.store.importlib.util.find_spec", lambda name: object())
    CloudFiles.objects.clear()
    return CLOUDS[protocol]
