from functools import partial

import numpy as np
import pytest
import torch

from autoseg.errors import RunError
from autoseg.preprocessing.cache import open_case
from autoseg.preprocessing.stored_array import LazyArray
from autoseg.training.data.held_cases import DeviceArray, hold_cases, measure_size

NAMES = ("case_0", "case_1")


def test_the_size_is_that_of_the_arrays(data_folder):
    open_one = partial(open_case, data_folder)
    size = measure_size(NAMES, open_one)
    assert size.arrays_bytes == 2 * 6 * 24 * 26 * (4 + 2)
    assert size.locations_bytes == sum(len(open_one(name).locations.coordinates) * 12 for name in NAMES)


@pytest.mark.parametrize("in_main_memory", [True, False])
def test_held_cases_are_those_of_the_disk(data_folder, device, in_main_memory):
    open_one = partial(open_case, data_folder)
    held = hold_cases(NAMES, open_one, None if in_main_memory else device)
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
    for name, case in hold_cases(NAMES, open_one, device).items():
        ((ours,), (theirs,)) = case.further_maps, open_one(name).further_maps
        assert isinstance(ours, DeviceArray)
        assert np.array_equal(ours[:], theirs[:])


def test_held_locations_keep_no_file_open(data_folder):
    case = hold_cases(("case_0",), partial(open_case, data_folder), None)["case_0"]
    assert not isinstance(case.locations.coordinates, np.memmap)


def test_an_array_on_a_device_is_read_like_any_other(device):
    array = DeviceArray(torch.arange(24, dtype=torch.int16, device=device).reshape(2, 3, 4))
    assert isinstance(array, LazyArray)
    assert array.dtype == np.dtype("int16")
    assert array[0, 1:].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_missing_case_is_named(data_folder):
    with pytest.raises(RunError, match="'nowhere'"):
        hold_cases(("nowhere",), partial(open_case, data_folder), None)
