"""Every writer on a disk that is full: a limit of the size of files fails as a full disk does, at the same places."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders.damage import limit_file_size

from autoseg.errors import AutosegError
from autoseg.exchange.model_file import write_model_file
from autoseg.geometry import Grid
from autoseg.networks.weights import write_weights
from autoseg.preprocessing.cache import write_array
from autoseg.processes.fold_lock import lock_fold
from autoseg.run_folder import FoldFolder, write_atomically, write_folder_atomically, write_text
from autoseg.volume_io import write_label_map, write_probabilities

FREE_BYTES = 4096
SHAPE = (24, 32, 40)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)


def write_folder(path: Path) -> None:
    with write_folder_atomically(path) as folder:
        (folder / "x").write_bytes(bytes(2 * FREE_BYTES))


def write_locations(path: Path) -> None:
    with write_atomically(path) as temporary:
        np.save(temporary, draw(10 * FREE_BYTES))


def write_zip(path: Path) -> None:
    with write_model_file(path, overwrite=True) as writer:
        writer.add(Path("x"), bytes(2 * FREE_BYTES))


def write_label_file(path: Path) -> None:
    flat = path.suffix in (".png", ".bmp")
    shape = (1, 200, 200) if flat else SHAPE
    grid = Grid(shape_voxels=shape, spacing_mm=(1.0, 1.0, 1.0))
    write_label_map(path, draw(*shape), grid=grid, like=None)


def write_all_probabilities(path: Path) -> None:
    halves = (slice(0, 12), slice(12, 24))
    random = np.random.default_rng(0).random((2, 12, 32, 40)).astype(np.float32)
    write_probabilities(path, (2, *SHAPE), [((half, slice(None), slice(None)), random) for half in halves])


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.json": lambda path: write_text(path, "x" * 2 * FREE_BYTES),
    "a.npy": write_locations,
    "a.zip": write_zip,
    "folder": write_folder,
    "a.safetensors": lambda path: write_weights(path, {"a": torch.zeros(2 * FREE_BYTES)}),
    "a.image.b2nd": lambda path: write_array(path, draw(1, *SHAPE).astype(np.float32), (8, 8, 8)),
    "a.b2nd": write_all_probabilities,
    **{
        f"a{ending}": write_label_file
        for ending in (".nii.gz", ".nii", ".img", ".mgz", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".png", ".bmp")
    },
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nibabel closes files of pairs late
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_old_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / name
    (path / "old").mkdir(parents=True) if name == "folder" else path.write_text("old")
    before = sorted(tmp_path.rglob("*"))
    with limit_file_size(FREE_BYTES), pytest.raises(AutosegError, match=rf"cannot write .*{name[:3]}.*free space"):
        WRITERS[name](path)
    left = {found for found in tmp_path.rglob("*") if found.name != "a.json"}  # the spacing of a TIFF file
    assert left == {found for found in before if found.name != "a.json"}
    assert name == "folder" or path.read_text() == "old"
    assert "Traceback" not in capfd.readouterr().err


def test_without_a_byte_for_a_lock_nothing_is_trained_and_the_repetition_is_right(tmp_path: Path) -> None:
    fold = FoldFolder(tmp_path / "fold_0")
    with limit_file_size(0), pytest.raises(AutosegError, match=r"cannot write .*fold_0\.lock: .*; free space"):
        lock_fold(fold, device="cpu").__enter__()
    with lock_fold(fold, device="cpu"):
        assert '"device":"cpu"' in fold.lock.read_text()


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr"])
def test_a_disk_that_is_full_at_the_last_byte_is_noticed(tmp_path: Path, ending: str) -> None:
    grid = Grid(shape_voxels=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    path = tmp_path / f"a{ending}"
    write_label_map(path, draw(*SHAPE), grid=grid, like=None)
    largest = max(found.stat().st_size for found in tmp_path.iterdir())
    with limit_file_size(largest - 1), pytest.raises(AutosegError, match=r"cannot write .*full disk; free space"):
        write_label_map(tmp_path / f"b{ending}", draw(*SHAPE), grid=grid, like=None)
    assert not list(tmp_path.glob("b*"))


def test_hdf5_is_not_begun_on_a_full_disk_as_its_library_would_abort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=FREE_BYTES))
    grid = Grid(shape_voxels=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(AutosegError, match=r"cannot write .*a\.h5: 1\.0 MiB are needed, 0\.0 MiB are free; free space"):
        write_label_map(tmp_path / "a.h5", draw(*SHAPE), grid=grid, like=None)
    assert list(tmp_path.iterdir()) == []
