"""Sizes that a header promises are compared with the memory of this process."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from autoseg.errors import VolumeError
from autoseg.volume_io.formats.headers import sizes

GIB = 2**30


def check(*shape: int, voxel_bytes: int = 2, stored_bytes: int, is_compressed: bool = True) -> None:
    sizes.check_size(
        Path("a.nii.gz"), shape, voxel_bytes=voxel_bytes, stored_bytes=stored_bytes, is_compressed=is_compressed
    )


def test_an_image_that_a_container_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(sizes, "find_available_ram", lambda: GIB)
    with pytest.raises(VolumeError, match=r"need 1\.5 GiB of memory to be read, this process may use 1 GiB"):
        check(512, 512, 1024, stored_bytes=512 * 512 * 2048, is_compressed=False)


def test_an_image_is_not_refused_because_others_use_the_memory_at_the_moment(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1, total=64 * GIB))
    check(512, 512, 1024, stored_bytes=512 * 512 * 2048, is_compressed=False)


def test_a_label_map_of_the_whole_body_may_be_nearly_empty():
    check(512, 512, 1400, stored_bytes=512 * 512 * 2800 // 1030)


def test_a_file_that_expands_beyond_any_usual_image_is_refused():
    with pytest.raises(VolumeError, match="1000 times as many"):
        check(1024, 1024, 1025, stored_bytes=1024 * 1024 * 2050 // 1000)
    check(1024, 1024, 1025, stored_bytes=1024 * 1024 * 2050 // 400)
