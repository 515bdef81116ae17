"""Records of how a result was computed, written beside it: library versions, and the record of a training."""

import platform
from importlib.metadata import version
from typing import Literal

import autoseg
from autoseg.document import Document, Part


class LibraryVersions(Part):
    """Versions of software that can change results."""

    autoseg: str
    python: str
    torch: str
    numpy: str
    batchgenerators: str
    platform: str


class TrainingRecord(Document):
    """Record of a training; everything else is in the plan beside it.

    Attributes:
        initial_weights: Checkpoint whose weights the training began with; None: they were drawn.
        initial_weights_sha256: Its digest.
        synthetic_cases: Number of synthetic cases that took part.
        teacher: Checkpoint of the network whose answers were learnt, too; None: the labels alone were.
        teacher_sha256: Its digest.
        calls: Options of every call that trained it, in their order.
    """

    schema_version: Literal[1] = 1
    configuration: str
    fold: str
    seed: int
    device: str
    number_type: str
    plan_sha256: str
    initial_weights: str | None = None
    initial_weights_sha256: str | None = None
    synthetic_cases: int = 0
    teacher: str | None = None
    teacher_sha256: str | None = None
    calls: tuple[tuple[str, ...], ...] = ()
    versions: LibraryVersions


def read_versions() -> LibraryVersions:
    """Reads the installed versions."""
    return LibraryVersions(
        autoseg=autoseg.__version__,
        python=platform.python_version(),
        torch=version("torch"),
        numpy=version("numpy"),
        batchgenerators=version("batchgenerators"),
        platform=platform.platform(),
    )
