"""The viewer NiiVue, which comes with the wheel of autoseg or is missing; its licence stands beside this module."""

import base64
import gzip
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "viewer"
SCRIPT: Final = FOLDER / "niivue.umd.js"
LICENSE: Final = FOLDER / "LICENSE"
MISSING: Final = (
    "The 3D viewer (NiiVue) did not come with this installation of autoseg: install its wheel, or in a copy of the "
    "sources run `make viewer`, and write the page again."
)


def read_viewer() -> str | None:
    """Reads the viewer as compressed text that a page unpacks; None if it is not installed."""
    if not SCRIPT.is_file():
        return None
    return base64.b64encode(gzip.compress(SCRIPT.read_bytes(), compresslevel=9, mtime=0)).decode()


def read_license() -> str:
    """Reads the licence of the viewer."""
    return LICENSE.read_text(encoding="utf-8")
