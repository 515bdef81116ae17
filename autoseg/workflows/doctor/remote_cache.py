"""Checks of the cache for datasets and runs by URL."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from autoseg.document import Part
from autoseg.errors import OptionError
from autoseg.remote.cache_folder import FOLDER_VARIABLE, SIZE_VARIABLE, find_cache, read_size_limit
from autoseg.remote.trimming import measure_cache
from autoseg.workflows.doctor.disk import NETWORK_FILE_SYSTEMS, find_existing, find_file_system
from autoseg.workflows.doctor.finding import Finding, format_size


class RemoteCacheFacts(Part):
    """The cache for datasets and runs by URL.

    Attributes:
        folder: Folder of the cache.
        file_system: Type of its file system.
        is_used: Whether a URL was used on this computer.
        held_bytes: Bytes that it holds.
        limit_bytes: Bytes that it may hold; None if the environment names no number.
        free_bytes: Free space beside it.
        problem: Error in the environment; empty without one.
    """

    folder: str
    file_system: str
    is_used: bool
    held_bytes: int
    limit_bytes: float | None
    free_bytes: int
    problem: str = ""


def measure_remote_cache(folder: Path) -> RemoteCacheFacts:
    """Measures the cache, whatever folder is examined."""
    del folder
    cache = find_cache()
    existing = find_existing(cache)
    facts = RemoteCacheFacts(
        folder=str(cache),
        file_system=find_file_system(existing)[1],
        is_used=cache.is_dir(),
        held_bytes=measure_cache(),
        limit_bytes=None,
        free_bytes=shutil.disk_usage(existing).free,
    )
    try:
        return facts.model_copy(update={"limit_bytes": read_size_limit()})
    except OptionError as error:
        return facts.model_copy(update={"problem": str(error)})


def check_remote_cache(cache: RemoteCacheFacts) -> Iterator[Finding]:
    """Checks size and place of the cache; yields nothing where no URL was used yet."""
    subject = "cache for URLs"
    if cache.limit_bytes is None:
        meaning, remedy = "commands with a URL end with an error", f"correct or remove {SIZE_VARIABLE}"
        yield Finding(state="will fail", subject=subject, found=cache.problem, meaning=meaning, remedy=remedy)
        return
    if not cache.is_used:
        return
    found = (
        f"{cache.folder}: {format_size(cache.held_bytes)} of {format_size(cache.limit_bytes)}, "
        f"{format_size(cache.free_bytes)} free"
    )
    if cache.held_bytes + cache.free_bytes < cache.limit_bytes:
        meaning = "the disk is full before the cache is"
        remedy = f"free space, export {SIZE_VARIABLE}=NUMBER, or {FOLDER_VARIABLE}=/path/of/a/larger/disk"
        yield Finding(state="warning", subject=subject, found=found, meaning=meaning, remedy=remedy)
    elif cache.file_system in NETWORK_FILE_SYSTEMS:
        meaning = "images and preprocessed data cross the network twice"
        remedy = f"export {FOLDER_VARIABLE}=/path/of/a/local/disk"
        found = f"{found}; network file system {cache.file_system}"
        yield Finding(state="warning", subject=subject, found=found, meaning=meaning, remedy=remedy)
    else:
        yield Finding(state="ok", subject=subject, found=found)
