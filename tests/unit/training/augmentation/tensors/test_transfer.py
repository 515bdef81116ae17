import numpy as np
import torch

from autoseg.training.augmentation.tensors.transfer import copy_to_device, copy_together, move_to_device


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


def test_many_arrays_go_over_together_with_their_shapes_and_types(device):
    arrays = [
        np.asarray([True, False, True]),
        np.arange(6).reshape(2, 3) * 2**40,
        np.zeros((0, 3)),
        np.asarray([[0.1, 0.2]])[:, ::-1],
        np.asarray([7, 8], dtype=np.int32),
    ]
    moved = copy_together(arrays, device)
    assert [part.dtype for part in moved] == [torch.bool, torch.int64, torch.float32, torch.float32, torch.int32]
    for array, part in zip(arrays, moved, strict=True):
        assert part.device.type == device.type
        assert part.shape == array.shape
        assert np.allclose(part.cpu().numpy(), array)
    assert len({part.untyped_storage().data_ptr() for part in moved}) == 1
