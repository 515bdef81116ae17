import numpy as np
import torch

from autoseg.training.augmentation.tensors.transfer import copy_to_device, move_to_device


def test_a_copy_does_not_change_with_its_source(device):
    source = np.arange(6.0)
    copy = copy_to_device(source[::2], device)
    source[:] = -1
    assert copy.tolist() == [0.0, 2.0, 4.0]
    assert copy.device.type == device.type


def test_moving_gives_the_same_values_and_nothing_new_where_the_tensor_is_already(device):
    moved = move_to_device(torch.arange(6).reshape(2, 3), device)
    assert moved.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert move_to_device(moved, device) is moved
    assert move_to_device(torch.empty(0, 3), device).shape == (0, 3)
