import torch

from autoseg.training.losses.targets import reduce_label_map


def test_label_maps_are_reduced_to_the_nearest_voxel():
    label_map = torch.arange(12, dtype=torch.int16).reshape(1, 2, 6)
    assert torch.equal(reduce_label_map(label_map, (2, 6)), label_map)
    assert torch.equal(reduce_label_map(label_map, (2, 3)), label_map[:, :, 1::2])
    assert torch.equal(reduce_label_map(label_map, (1, 2)), label_map[:, 1:, 1::3])
