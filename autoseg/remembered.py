"""Cache folder for measurements of this computer, and the name of its CPU."""

import os
import platform
from pathlib import Path


def find_memory_folder(subject: str) -> Path:
    """Where measurements of a subject are remembered: in the folder that the system has for what can be made again."""
    if os.name == "nt":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "autoseg" / subject


def find_processor() -> str:
    """The name of the processor's model where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
