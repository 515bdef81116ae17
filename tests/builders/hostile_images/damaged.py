"""Files that are cut, overwritten or flipped, things that are no files, and unusual names."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from builders.hostile_images.good_files import ANYTHING, GOOD_ENDINGS, RIGHT, HostileFile, change_file, save_good


def _flip(position: float) -> Callable[[bytes], bytes]:
    """Flips all bits of a byte; the position is a fraction of the file."""

    def change(content: bytes) -> bytes:
        index = int(position * len(content))
        return content[:index] + bytes([content[index] ^ 255]) + content[index + 1 :]

    return change


def list_damaged() -> Iterator[HostileFile]:
    """Lists all."""
    for ending in GOOD_ENDINGS:
        damages: dict[str, tuple[Callable[[bytes], bytes], str]] = {
            "empty": (lambda content: b"", "is empty"),
            "three bytes": (lambda content: content[:3], f"(?i){ending[1:]}"),
            "a third": (lambda content: content[: len(content) // 3], f"(?i){ending[1:]}"),
            "zeros": (lambda content: bytes(len(content)), f"(?i){ending[1:]}"),
            "text": (lambda content: b"no image " * 99, f"(?i){ending[1:]}"),
        }
        for name, (change, outcome) in damages.items():
            yield HostileFile(name=f"{ending}: {name}", build=change_file(ending, change), outcome=outcome)
        for position in (0.0, 0.01, 0.05, 0.2, 0.9):
            build = change_file(ending, _flip(position))
            yield HostileFile(name=f"{ending}: byte flipped at {position}", build=build, outcome=ANYTHING)


def list_no_files() -> Iterator[HostileFile]:
    """Lists all."""

    def link_to_itself(folder: Path) -> Path:
        (folder / "a.nii.gz").symlink_to("a.nii.gz")
        return folder / "a.nii.gz"

    def link_in_a_ring(folder: Path) -> Path:
        (folder / "a.mha").symlink_to("b.mha")
        (folder / "b.mha").symlink_to("a.mha")
        return folder / "a.mha"

    def link(target: str) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            (folder / "a.nrrd").symlink_to(target)
            return folder / "a.nrrd"

        return build

    def pipe(ending: str) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            os.mkfifo(folder / f"a{ending}")
            return folder / f"a{ending}"

        return build

    def folder_in_place(folder: Path) -> Path:
        (folder / "a.nii.gz").mkdir()
        return folder / "a.nii.gz"

    yield HostileFile(name="link to itself", build=link_to_itself, outcome="link to a file that does not exist")
    yield HostileFile(name="links in a ring", build=link_in_a_ring, outcome="link to a file that does not exist")
    yield HostileFile(name="link to nothing", build=link("nowhere"), outcome="link to a file that does not exist")
    yield HostileFile(name="link to zeros without end", build=link("/dev/zero"), outcome="pipe or a device")
    for ending in (".nii.gz", ".mha", ".png", ".tif", ".h5"):
        yield HostileFile(name=f"pipe {ending}", build=pipe(ending), outcome="pipe or a device")
    yield HostileFile(name="folder", build=folder_in_place, outcome="is a folder")


def list_names() -> Iterator[HostileFile]:
    """Lists all."""
    for name in ("with blank", "with\nnewline", "ünï-字", "a%d", "-rf", "..a", "a;b'c\"d", "x" * 200):
        for ending in (".nii.gz", ".mha", ".nrrd", ".png", ".tif", ".h5"):

            def build(folder: Path, name: str = name, ending: str = ending) -> Path:
                return save_good(folder, ending).rename(folder / f"{name}{ending}")

            yield HostileFile(name=f"named {name[:12]!r}{ending}", build=build, outcome=RIGHT)
