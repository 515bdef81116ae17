"""Caches measurements of this computer on disk, so that later calls need not repeat them."""

import hashlib
import logging
import os
import platform
from pathlib import Path

from autoseg.document import AnyDocument, Document, Part, read_document, write_document
from autoseg.errors import DocumentError, RunError

DIGEST_LETTERS = 32

logger = logging.getLogger(__name__)


def find_measurement_cache(subject: str) -> Path:
    """Returns the folder for cached measurements of a subject, below the user's cache folder."""
    if os.name == "nt":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "autoseg" / subject


def find_measurement(folder: Path, conditions: Part) -> Path:
    """Returns the file of a measurement that was made under the given conditions, whether it exists or not."""
    digest = hashlib.sha256(conditions.model_dump_json().encode()).hexdigest()
    return folder / f"{digest[:DIGEST_LETTERS]}.json"


def read_measurement(path: Path, kind: type[AnyDocument]) -> AnyDocument | None:
    """Reads a cached measurement; None if there is none that this version can read."""
    try:
        return read_document(path, kind)
    except DocumentError:
        return None


def write_measurement(path: Path, document: Document, *, what: str) -> None:
    """Caches a measurement; a folder that cannot be written is reported in the log.

    Args:
        path: The result of `find_measurement`.
        document: The measurement.
        what: Names the measured quantity in the log.
    """
    try:
        write_document(path, document)
    except RunError as error:
        logger.warning("%s is measured in every call: %s", what, error)


def find_cpu_name() -> str:
    """Returns the model name of the CPU, as far as the operating system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
