import itertools

import pytest
import torch
from builders.clocks import Clock
from builders.plans import build_configuration
from torch import nn

from autoseg.inference.execution import batch_size as pass_size
from autoseg.inference.execution.batch_size import find_inference_batch_size, measure_inference_batch_size
from autoseg.runtime.measurement_cache import find_measurement_cache


class Slow(nn.Module):
    """Takes time by the size of a batch, and remembers the sizes."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds, self.sizes = clock, seconds, []

    def forward(self, image):
        self.sizes.append(len(image))
        self.clock.now += self.seconds(len(image))
        return (image,)


@pytest.fixture
def start(monkeypatch):
    def start(seconds):
        clock = Clock()
        monkeypatch.setattr(pass_size, "time", clock)
        return Slow(clock, seconds)

    return start


def test_the_search_doubles_until_more_patches_gain_nothing(start):
    slow = start(lambda count: 1.0 + 0.1 * count if count <= 4 else count)
    seconds = measure_inference_batch_size(slow, channels=1, patch_voxels=(8, 8))
    assert seconds == pytest.approx([1.1, 0.6, 0.35, 1.0])
    assert slow.sizes == [size for size in (1, 2, 4, 8) for _ in range(2)]


def test_the_search_ends_before_a_pass_grows_large(start):
    slow = start(lambda count: 1.0)
    measure_inference_batch_size(slow, channels=1, patch_voxels=(64, 64, 64))
    assert max(slow.sizes) == 2
    slow.sizes.clear()
    measure_inference_batch_size(slow, channels=1, patch_voxels=(4, 4))
    assert max(slow.sizes) == 32


def test_the_faster_of_two_passes_counts(start):
    first = itertools.cycle([True, False])
    slow = start(lambda count: 10.0 if next(first) else 1.0)
    assert measure_inference_batch_size(slow, channels=1, patch_voxels=(512, 512))[0] == pytest.approx(1.0)


META = torch.device("meta")


def use_gpu(monkeypatch, allocated_bytes, *, before_bytes=0):
    """Makes the meta device a GPU of 100 bytes, of which so many were allocated at most before the measurement."""
    peaks = [before_bytes]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 100))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peaks.clear())
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: max([*peaks, next(allocated_bytes)]))


def test_on_a_gpu_patches_of_any_size_are_tried_while_half_of_its_memory_holds_twice_as_many(start, monkeypatch):
    use_gpu(monkeypatch, iter([5, 25, 26]))
    slow = start(lambda count: 1.0)
    measure_inference_batch_size(slow, channels=1, patch_voxels=(128, 128, 128), device=META)
    assert slow.sizes == [size for size in (1, 2, 4) for _ in range(2)]


def test_memory_that_a_training_took_before_leaves_the_sizes_of_a_gpu_as_they_are(start, monkeypatch):
    use_gpu(monkeypatch, iter([5, 25, 26]), before_bytes=90)
    slow = start(lambda count: 1.0)
    measure_inference_batch_size(slow, channels=1, patch_voxels=(128, 128, 128), device=META)
    assert slow.sizes == [size for size in (1, 2, 4) for _ in range(2)]


def test_a_single_patch_is_tried_on_a_gpu_whose_memory_is_full_of_other_things(start, monkeypatch):
    use_gpu(monkeypatch, itertools.repeat(30))
    slow = start(lambda count: 1.0)
    assert measure_inference_batch_size(slow, channels=1, patch_voxels=(8, 8), device=META) == [1.0]


def test_a_batch_that_does_not_fit_on_a_gpu_ends_the_search(start, monkeypatch):
    use_gpu(monkeypatch, itertools.repeat(1))

    def run(count):
        if count > 2:
            raise torch.OutOfMemoryError
        return 1.0

    assert len(measure_inference_batch_size(start(run), channels=1, patch_voxels=(8, 8), device=META)) == 2

    def fail(count):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        measure_inference_batch_size(start(fail), channels=1, patch_voxels=(8, 8), device=META)


@pytest.fixture
def find(tmp_path):
    def find(network, *, patch=(8, 8), memory=tmp_path, dtype="float32"):
        return find_inference_batch_size(network, build_configuration(patch), dtype=dtype, memory=memory)

    return find


def test_a_size_is_measured_once_announced_and_remembered(start, find, caplog):
    caplog.set_level("INFO")
    slow = start(lambda count: 1.0 if count <= 2 else count)
    assert find(slow) == 2
    assert "the fastest batch size here is 2" in caplog.text
    slow.sizes.clear()
    assert find(slow) == 2
    assert not slow.sizes


def test_other_circumstances_are_measured_anew(start, find):
    slow = start(lambda count: 1.0)
    find(slow)
    for changes in ({"patch": (16, 8)}, {"dtype": "bfloat16"}):
        slow.sizes.clear()
        find(slow, **changes)
        assert slow.sizes
    slow.sizes.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        find(slow)
    finally:
        torch.set_num_threads(before)
    assert slow.sizes


def test_large_patches_go_alone_unmeasured(start, find):
    slow = start(lambda count: 1.0)
    assert find(slow, patch=(128, 128, 128)) == 1
    assert not slow.sizes


def test_patches_that_keep_every_thread_busy_share_passes_unmeasured(start, find, monkeypatch, tmp_path):
    slow = start(lambda count: 1.0 if count <= 2 else count)
    for threads, is_measured in ((1, False), (2, False), (3, True), (64, True)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        slow.sizes.clear()
        assert find(slow, patch=(40, 56, 40), memory=tmp_path / str(threads)) == (2 if is_measured else 4)
        assert bool(slow.sizes) == is_measured


def test_a_damaged_memory_is_measured_anew(start, find, tmp_path):
    slow = start(lambda count: 1.0 if count <= 4 else count)
    find(slow)
    (record,) = tmp_path.iterdir()
    record.write_text("{")
    assert find(slow) == 4
    assert record.read_text() != "{"


def test_a_memory_that_cannot_be_written_is_announced(start, find, tmp_path, caplog):
    (tmp_path / "file").touch()
    slow = start(lambda count: 1.0 if count <= 4 else count)
    assert find(slow, memory=tmp_path / "file") == 4
    assert "measured in every call" in caplog.text


def test_sizes_are_remembered_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_measurement_cache("sizes") == tmp_path / "autoseg" / "sizes"
