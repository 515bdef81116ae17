"""Versions of what computed a result, to be kept beside it."""

import platform
from importlib.metadata import version

from autoseg.document import Part


class LibraryVersions(Part):
    """Versions that can change numbers."""

    autoseg: str
    python: str
    torch: str
    numpy: str
    batchgenerators: str
    platform: str


def measure_versions() -> LibraryVersions:
    """The versions installed here."""
    return LibraryVersions(
        autoseg=version("autoseg"),
        python=platform.python_version(),
        torch=version("torch"),
        numpy=version("numpy"),
        batchgenerators=version("batchgenerators"),
        platform=platform.platform(),
    )
