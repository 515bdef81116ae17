"""Damaged and hostile files: each is a named error or the right image, within seconds and little memory."""

import logging
import re
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from builders.hostile_images import ANYTHING, PICTURE, RIGHT, VOXELS, list_hostile_images

from autoseg.errors import VolumeError
from autoseg.volume_io import read_grid, read_image

if not Path("/proc/self/clear_refs").exists():
    pytest.skip("only Linux tells the peak of memory", allow_module_level=True)

FILES = list_hostile_images()

# nibabel leaves closing PAR/REC and ECAT files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


MOST_BYTES = 2**30
MOST_SECONDS = 20.0


@pytest.fixture(autouse=True)
def limits():
    """Fails a test that takes more memory or time than any of these files may."""
    start, before = time.monotonic(), read_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    yield
    assert time.monotonic() - start < MOST_SECONDS
    assert read_memory("VmHWM") - before < MOST_BYTES


def read_memory(name: str) -> int:
    """Returns a figure of this process in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024


def test_there_are_hundreds_of_files_with_different_names():
    assert len({file.name for file in FILES}) == len(FILES) >= 300


@pytest.mark.parametrize("file", FILES, ids=lambda file: re.sub(r"[^\w.]+", "-", file.name))
def test_a_hostile_file_is_a_named_error_or_the_right_image(tmp_path, capfd, monkeypatch, file):
    monkeypatch.setattr(logging.getLogger("nibabel.global"), "disabled", True)  # as the command line does
    path = file.build(tmp_path)
    if file.outcome == RIGHT:
        image = read_image([path])
        np.testing.assert_array_equal(image.array[0], PICTURE[None] if path.suffix == ".png" else VOXELS)
        assert read_grid(path) == image.grid
    elif file.outcome == ANYTHING:
        with suppress(VolumeError):
            assert read_grid(path) == read_image([path]).grid
    else:
        with pytest.raises(VolumeError, match=file.outcome) as caught:
            read_image([path])
        assert path.stem.partition(".")[0] in str(caught.value)
    assert capfd.readouterr().err == ""
