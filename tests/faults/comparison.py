"""Comparison of two folders bit for bit, apart from the clock times that a training records."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from safetensors import safe_open

from autoseg.files.temporary_files import TEMPORARY_FOLDER, TEMPORARY_NAME

CLOCK_FILES: Final = ("training_log.jsonl", "progress.png", "state.json", "tensorboard", "logs", ".lock")
CLOCK_WORDS: Final = ("seconds", "time", "pid", "weights_sha256")
"""The last is the digest of a checkpoint, which records times and is compared itself."""


def find_differences(expected: Path, found: Path) -> list[str]:
    """Names every file that is missing, superfluous or different."""
    names = {folder: _list_files(folder) for folder in (expected, found)}
    differences = [f"{name} is missing" for name in sorted(names[expected] - names[found])]
    differences += [f"{name} is superfluous" for name in sorted(names[found] - names[expected])]
    common = sorted(names[expected] & names[found])
    return differences + [f"{name} differs" for name in common if not _are_equal(expected / name, found / name)]


def find_leftovers(folder: Path, temporary: Path) -> list[str]:
    """Names temporary files in a folder of results, and everything in the folder of temporary files."""
    left = [path for path in folder.rglob("*") if TEMPORARY_NAME.fullmatch(path.name)]
    left += [path for path in temporary.iterdir() if TEMPORARY_FOLDER.fullmatch(path.name) or "pymp" in path.name]
    return [f"{path} was left" for path in left]


def find_orphans(mark: str) -> list[psutil.Process]:
    """Finds living processes whose environment holds a mark."""
    return list(_list_marked(mark))


def _list_marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("AUTOSEG_FAULTS") == mark:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _list_files(folder: Path) -> set[str]:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not any(word in name for word in CLOCK_FILES)}


def _are_equal(first: Path, second: Path) -> bool:
    if first.read_bytes() == second.read_bytes():
        return True
    if first.suffix == ".json":
        return bool(_drop_clock(json.loads(first.read_text())) == _drop_clock(json.loads(second.read_text())))
    return first.suffix == ".safetensors" and _read_checkpoint(first) == _read_checkpoint(second)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="np") as file:
        content: dict[str, Any] = {
            name: (value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
            for name in file.keys()  # noqa: SIM118 (no mapping)
            if name != "checksums"
            for value in [file.get_tensor(name)]
        }
        description = json.loads((file.metadata() or {}).get("autoseg", "{}"))
    return content | {"description": _drop_clock(description)}


def _drop_clock(content: Any) -> Any:
    if isinstance(content, dict):
        kept = {name: value for name, value in content.items() if not any(word in name for word in CLOCK_WORDS)}
        return {name: _drop_clock(value) for name, value in kept.items()}
    return [_drop_clock(value) for value in content] if isinstance(content, list) else content


def make_temporary_place() -> Path:
    """Makes a short path, as the names of sockets are limited to about 100 characters."""
    return Path(tempfile.mkdtemp(prefix="faults-"))
