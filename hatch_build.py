"""Fetches the viewer NiiVue from npm when a wheel is built, so that reports of the installed package are whole.

Without npm or network the wheel is built without it, which is announced; reports then say how to get it.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # `make viewer` needs no hatchling
    BuildHookInterface = object  # type: ignore[assignment, misc]

PACKAGE = "@niivue/niivue@0.69.0"
MEMBER = "package/dist/niivue.umd.js"
SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
TARGET = Path("autoseg") / "report" / "viewer" / "niivue.umd.js"
LONGEST_SECONDS = 120
WAITING = ("--fetch-retries=0", "--fetch-timeout=10000")  # else npm waits for minutes where there is no network


class ViewerHook(BuildHookInterface):
    """Runs before hatchling collects the files of the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetches the viewer, or announces that the package is built without."""
        del version, build_data
        problem = fetch_viewer(Path(self.root) / TARGET)
        if problem is not None:
            self.app.display_warning(f"the wheel is built without the 3D viewer of reports: {problem}")


def fetch_viewer(target: Path) -> str | None:
    """Fetches the viewer, unless it is there; returns what went wrong, or None."""
    if target.is_file() and compute_digest(target.read_bytes()) == SHA256:
        return None
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", *WAITING, PACKAGE]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=LONGEST_SECONDS)
        except (subprocess.SubprocessError, OSError) as error:
            return f"npm cannot fetch {PACKAGE}: {error}"
        script = read_member(Path(folder))
    if compute_digest(script) != SHA256:
        return f"{PACKAGE} is not the file that was tested: its {MEMBER} has another SHA-256"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(script)
    return None


def read_member(folder: Path) -> bytes:
    """Reads the viewer from the archive in a folder; nothing if there is none or it is damaged."""
    try:
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as members:
            content = members.extractfile(MEMBER)
            return b"" if content is None else content.read()
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError):
        return b""


def compute_digest(content: bytes) -> str:
    """Computes the SHA-256 digest."""
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(fetch_viewer(Path(__file__).parent / TARGET))
