"""Installs packages of Debian for tests with other programs: `python -m builders.debian PACKAGE ...`."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

SECONDS_TO_INSTALL = 240.0
LOCK = Path(tempfile.gettempdir()) / "autoseg-apt.lock"  # one at a time, or the second would find apt's own lock taken


def install_packages(packages: Sequence[str]) -> str | None:
    """Installs packages; returns why it cannot, or None."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get"
    if os.geteuid() != 0:
        return "installing needs the superuser"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    steps = (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages])
    with FileLock(LOCK):
        for step in steps:
            try:
                done = subprocess.run(
                    ["apt-get", *step], env=environment, capture_output=True, text=True, timeout=SECONDS_TO_INSTALL
                )
            except subprocess.TimeoutExpired:
                return f"apt-get {step[0]} took longer than {SECONDS_TO_INSTALL:.0f} s"
            if done.returncode != 0:
                return f"apt-get {step[0]} failed: {done.stderr.strip().splitlines()[-1:]}"
    return None


if __name__ == "__main__":
    problem = install_packages(sys.argv[1:])
    if problem is not None:
        sys.stdout.write(f"{', '.join(sys.argv[1:])}: {problem}, so the tests that need what is missing are skipped\n")
