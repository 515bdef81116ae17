from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.errors import RunError
from autoseg.preprocessing.cache import open_case
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.training.augmentation.tensors.transfer import copy_together
from autoseg.training.data.case_store import store_cases
from autoseg.training.data.held_cases import READING_THREADS, DeviceArray, hold_cases, measure_size
from autoseg.training.data.sampling import Cut, cut_out

NAMES = ("case_0", "case_1")


def test_the_size_is_that_of_the_arrays(data_folder):
    open_one = partial(open_case, data_folder)
    size = measure_size(NAMES, open_one)
    assert size.arrays_bytes == 2 * 6 * 24 * 26 * (4 + 2)
    assert size.locations_bytes == sum(len(open_one(name).locations.coordinates) * 12 for name in NAMES)


@pytest.mark.parametrize("in_main_memory", [True, False])
def test_held_cases_are_those_of_the_disk(data_folder, device, in_main_memory):
    open_one = partial(open_case, data_folder)
    held = hold_cases(NAMES, open_one) if in_main_memory else store_cases(NAMES, open_one, device).cases
    assert list(held) == list(NAMES)
    for name, case in held.items():
        known = open_one(name)
        for ours, theirs in ((case.image, known.image), (case.label_map, known.label_map)):
            assert isinstance(ours, np.ndarray if in_main_memory else DeviceArray)
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            assert np.array_equal(ours[:], theirs[:])
        assert np.array_equal(case.locations.of_class(0), known.locations.of_class(0))


def test_predictions_of_a_previous_stage_are_held_and_counted(data_folder, previous, device):
    open_one = partial(previous.open_case, data_folder)
    assert measure_size(NAMES, open_one).arrays_bytes == 2 * 6 * 24 * 26 * (4 + 2 + 2)
    for name, case in store_cases(NAMES, open_one, device).cases.items():
        ((ours,), (theirs,)) = case.further_maps, open_one(name).further_maps
        assert isinstance(ours, DeviceArray)
        assert np.array_equal(ours[:], theirs[:])


def test_held_locations_keep_no_file_open(data_folder):
    open_one = partial(open_case, data_folder)
    stored = store_cases(("case_0",), open_one, torch.device("cpu"))
    for cases in (hold_cases(("case_0",), open_one), stored.cases):
        assert not isinstance(cases["case_0"].locations.coordinates, np.memmap)


def test_an_array_on_a_device_is_read_like_any_other(device):
    array = DeviceArray(torch.arange(24, dtype=torch.int16, device=device).reshape(2, 3, 4))
    assert isinstance(array, LazyArray)
    assert array.dtype == np.dtype("int16")
    assert array[0, 1:].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_missing_case_is_named(data_folder):
    with pytest.raises(RunError, match="'nowhere'"):
        hold_cases(("nowhere",), partial(open_case, data_folder))
    with pytest.raises(RunError, match="'nowhere'"):
        store_cases(("nowhere",), partial(open_case, data_folder), torch.device("cpu"))


def test_the_store_needs_no_more_than_the_estimate_and_a_voxel_of_nothing(data_folder, previous):
    open_one = partial(previous.open_case, data_folder)
    store = store_cases(NAMES, open_one, torch.device("cpu"))
    assert store.images.nbytes + store.maps.nbytes == measure_size(NAMES, open_one).arrays_bytes + 4 + 2 * 2
    assert (store.images[:, 0].tolist(), store.maps[:, 0].tolist()) == ([0], [-1, -1])
    for case in store.cases.values():
        for array, whole in ((case.image, store.images), *((part, store.maps) for part in case.maps)):
            assert array.tensor.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


@pytest.mark.parametrize("border", ["zeros", "mirror", "replicate"])
def test_boxes_gathered_at_once_are_those_cut_one_by_one(data_folder, previous, device, border):
    store = store_cases(NAMES, partial(previous.open_case, data_folder), device)
    starts = [(-3, 2, -2), (1, 1, 1), (4, 20, 15), (-8, 0, 20)]
    cuts = [Cut(case=store.cases[NAMES[number % 2]], start=start) for number, start in enumerate(starts)]
    extent = (9, 3, 14)
    voxels = copy_together(store.find_voxels(cuts, extent, border=border), device)
    found = store.gather(voxels)
    assert found.image.is_contiguous()
    for number, cut in enumerate(cuts):
        image = cut_out(cut.case.image, cut.start, extent, fill=0, border=border)
        maps = [cut_out(part, cut.start, extent, fill=-1, border=border) for part in cut.case.maps]
        assert np.array_equal(found.image[number].cpu().numpy(), image)
        assert np.array_equal(found.label_maps[number].cpu().numpy(), np.stack(maps))


DESCRIPTORS = Path("/proc/self/fd")


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="this system does not list the open files of a process")
@pytest.mark.parametrize("read", ["sizes", "store"])
def test_few_files_are_open_however_many_cases_there_are(data_folder, device, read):
    open_files = []

    def open_and_count(name):
        case = open_case(data_folder, name)
        open_files.append(len(list(DESCRIPTORS.iterdir())))
        return case

    before = len(list(DESCRIPTORS.iterdir()))
    names = NAMES * 20
    if read == "sizes":
        measure_size(names, open_and_count)
    else:
        store_cases(names, open_and_count, device)
    assert len(open_files) >= len(names)
    assert max(open_files) - before <= 4 * (READING_THREADS + 2)  # a case has three files; another thread may count
