"""Commands whose output folder cannot be written say so, and lose nothing."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders.command_line import AUTOSEG, run_autoseg, start_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="takes from the superuser what lets him write everywhere"),
]
ON_CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def place(trained_run: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, images, their predictions, and an exported model."""
    place = tmp_path_factory.mktemp("place")
    shutil.copytree(trained_run, place / "run")
    (place / "run" / "preprocessed" / "3d_fullres" / "case0.json").unlink()
    shutil.copytree(dataset / "labelsTr", place / "predictions")
    (place / "images").mkdir()
    shutil.copy(dataset / "imagesTr" / "case0_0000.nii.gz", place / "images")
    exported = run_autoseg("export", place / "run", "--format", "autoseg", "--output", place / "model.zip")
    assert exported.code == 0, exported.err
    return place


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Takes the permission to write from all folders and files below."""
    paths = [root, *root.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    try:
        for path in paths:
            path.chmod(modes[path] & ~0o222)
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def list_states(root: Path) -> dict[Path, tuple[int, int, int]]:
    """Number, size and time of every file and folder."""
    found = {path: path.stat() for path in root.rglob("*")}
    return {path: (state.st_ino, state.st_size, state.st_mtime_ns) for path, state in found.items()}


COMMANDS: dict[str, Callable[[Path, Path], list[object]]] = {
    "plan": lambda place, data: ["plan", data, "--run", place / "new.autoseg"],
    "plan again": lambda place, data: ["plan", data, "--run", place / "run", "--overwrite"],
    "preprocess": lambda place, data: ["preprocess", place / "run", "--workers", 1],
    "train": lambda place, data: ["train", place / "run", "--configuration", "2d", "--fold", "1", *ON_CPU],
    "train many": lambda place, data: ["train", place / "run", "--configuration", "2d", *ON_CPU],
    "select": lambda place, data: ["select", place / "run", *ON_CPU],
    "predict": lambda place, data: ["predict", place / "run", place / "images", place / "out", *ON_CPU],
    "predict beside": lambda place, data: ["predict", place / "run", place / "images", place / "images", *ON_CPU],
    "evaluate": lambda place, data: ["evaluate", place / "predictions", data / "labelsTr", "--run", place / "run"],
    "export": lambda place, data: ["export", place / "run", "--format", "autoseg", "--output", place / "other.zip"],
    "export for nnU-Net": lambda place, data: [
        *("export", place / "run", "--format", "nnunet", "--output", place / "results")
    ],
    "import": lambda place, data: ["import", place / "model.zip", place / "imported"],
    "report": lambda place, data: ["report", place / "run"],
    "import again": lambda place, data: ["import", place / "model.zip", place / "run", "--overwrite"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_written_is_named_and_nothing_in_it_changes(
    place: Path, dataset: Path, name: str
) -> None:
    before = list_states(place)
    with lock(place):
        arguments = list(map(str, COMMANDS[name](place, dataset)))
        done = start_server(AUTOSEG[1:]).run(arguments, cwd=None, heeds_permissions=True)
    assert (done.code, "Traceback" in done.err) == (1, False), done.out + done.err
    assert "autoseg: error: " in done.err
    assert str(place) in "".join(done.err.split())
    assert "cases failed" not in done.err  # no case is computed before
    if name in ("preprocess", "select", "evaluate"):
        assert "is not writable; choose a place that you may write" in done.err
    assert list_states(place) == before


def test_a_run_that_cannot_be_written_is_shown_elsewhere(place: Path, tmp_path: Path) -> None:
    with lock(place):
        arguments = ["report", str(place / "run"), "--out", str(tmp_path / "report.html")]
        done = start_server(AUTOSEG[1:]).run(arguments, cwd=None, heeds_permissions=True)
    assert done.code == 0, done.err
    assert (tmp_path / "report.html").is_file()


def test_a_run_that_cannot_be_written_predicts(place: Path, tmp_path: Path) -> None:
    with lock(place):
        arguments = ["predict", str(place / "run"), str(place / "images"), str(tmp_path / "out"), *ON_CPU]
        done = start_server(AUTOSEG[1:]).run(arguments, cwd=None, heeds_permissions=True)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "case0.nii.gz").is_file()
