from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg.training.augmentation.spatial import (
    SpatialParameters,
    compute_source_positions,
    interpolate_image,
    interpolate_label_map,
)
from autoseg.training.augmentation.tensors import resampling
from autoseg.training.augmentation.tensors.resampling import (
    compute_matrices,
    compute_positions,
    interpolate_label_maps,
    resample_cuts,
)
from autoseg.training.augmentation.transform import build_sample_draws
from autoseg.training.augmentation.transforms import build_transforms

CASES = [((14, 15, 12), (8, 7, 9)), ((5, 9, 9), (8, 7, 9)), ((14, 15), (8, 9))]


@pytest.fixture
def draw(plan_transforms, list_seeds):
    """Parameters of samples that are all rotated and scaled."""

    def make(dimensions, *, count=4, **changes):
        always = {"rotation_probability": 1.0, "scaling_probability": 1.0}
        (transform,) = build_transforms(plan_transforms(spatial=always | changes), (8,) * dimensions)
        return transform.draw(build_sample_draws(list_seeds(count), channels=2))

    return make


def draw_cuts(shape, *, batch=4, block=1):
    generator = np.random.default_rng(1)
    image = generator.normal(size=(batch, 2, *shape)).astype(np.float32)
    coarse = generator.integers(-1, 4, size=(batch, *(-(-extent // block) for extent in shape)))
    label_map = np.kron(coarse, np.ones((1, *(block,) * len(shape)), dtype=np.int16))
    return image, label_map[(slice(None), *map(slice, shape))].astype(np.int16)


def to_matrices(parameters, device):
    matrices = compute_matrices(parameters.angles_radians, parameters.scale)
    return torch.from_numpy(matrices.astype(np.float32)).to(device)


def list_reference_positions(parameters, patch, cut):
    return [
        compute_source_positions(SpatialParameters(angles_radians=tuple(angles), scale=scale), patch, cut)
        for angles, scale in zip(parameters.angles_radians.tolist(), parameters.scale.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("cut", "patch"), CASES)
def test_positions_are_those_of_the_cpu(draw, device, cut, patch):
    parameters = draw(len(cut), rotation_limit_degrees=180)
    found = compute_positions(to_matrices(parameters, device), patch, cut)
    expected = list_reference_positions(parameters, patch, cut)
    for sample in range(4):
        for axis in range(len(cut)):
            assert np.allclose(found[sample, axis].cpu().numpy(), expected[sample][axis], atol=1e-4)


@pytest.mark.parametrize(("cut", "patch"), CASES)
def test_images_are_those_of_the_cpu(draw, device, cut, patch):
    parameters, (image, label_map) = draw(len(cut)), draw_cuts(cut)
    moved, _ = resample_cuts(
        torch.from_numpy(image).to(device),
        torch.from_numpy(label_map).to(device),
        to_matrices(parameters, device),
        patch,
    )
    for sample, positions in enumerate(list_reference_positions(parameters, patch, cut)):
        for channel in range(2):
            expected = interpolate_image(image[sample, channel], positions)
            assert np.allclose(moved[sample, channel].cpu().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("cut", "patch"), CASES)
@pytest.mark.parametrize("block", [1, 3])
def test_label_maps_are_those_of_the_cpu(draw, device, *, cut, patch, block):
    parameters, (image, label_map) = draw(len(cut)), draw_cuts(cut, block=block)
    _, moved = resample_cuts(
        torch.from_numpy(image).to(device),
        torch.from_numpy(label_map).to(device),
        to_matrices(parameters, device),
        patch,
    )
    assert moved.dtype == torch.int16
    expected = [
        interpolate_label_map(label_map[sample], positions)
        for sample, positions in enumerate(list_reference_positions(parameters, patch, cut))
    ]
    assert (moved.cpu().numpy() == np.stack(expected)).mean() > 0.999
    assert (moved == -1).any()
    assert (moved > 0).any()


def test_ties_go_to_the_nearest_voxel_and_outside_is_strict(device):
    label_map = np.asarray([[3, 1, 1, 2, 2]], dtype=np.int16)
    along = np.asarray([-0.01, 0, 0.49, 0.5, 0.51, 2.5, 4, 4.01])
    positions = np.stack([np.zeros_like(along), along])[:, None]
    expected = interpolate_label_map(label_map, positions)
    found = interpolate_label_maps(
        torch.from_numpy(label_map)[None, None].to(device),
        torch.from_numpy(positions.astype(np.float32))[None].to(device),
    )
    assert found[0, 0].tolist() == expected.tolist()
    assert expected.tolist() == [[-1, 3, 3, 1, 1, 2, 2, -1]]


def test_where_the_nearest_voxel_has_lost_the_smallest_of_equal_labels_wins(device):
    block = np.asarray([3, 1, 2, 1, 2, 1, 2, 3], dtype=np.int16).reshape(1, 1, 2, 2, 2)
    middle = torch.full((1, 3, 1, 1, 1), 0.5, device=device)
    assert interpolate_label_maps(torch.from_numpy(block).to(device), middle).item() == 1


def test_a_rotated_ball_stays_a_ball_and_a_scaled_one_shrinks(draw, device):
    grid = np.indices((41, 41, 41)) - 20
    ball = ((grid**2).sum(0) <= 12**2).astype(np.int16)
    parameters = draw(3)
    turned = replace(parameters, scale=np.ones(4))
    shrunk = replace(parameters, scale=np.full(4, 1.4))
    for changed, radius in ((turned, 12), (shrunk, 12 / 1.4)):
        image, label_map = resample_cuts(
            torch.from_numpy(np.tile(ball[None, None], (4, 1, 1, 1, 1)).astype(np.float32)).to(device),
            torch.from_numpy(np.tile(ball, (4, 1, 1, 1))).to(device),
            to_matrices(changed, device),
            (31, 31, 31),
        )
        expected = (grid[:, 5:-5, 5:-5, 5:-5] ** 2).sum(0) <= radius**2
        labels = label_map.cpu().numpy() > 0  # corners come from beyond the cut
        for sample in range(4):
            overlap = 2 * (labels[sample] * expected).sum() / (labels[sample].sum() + expected.sum())
            assert overlap > 0.97
        assert ((image[:, 0].cpu().numpy() > 0.5) == labels).mean() > 0.999


def test_in_plane_changes_move_all_slices_alike_and_leave_the_first_axis_alone(draw, device):
    image, label_map = draw_cuts((24, 24))
    slices = np.arange(1, 4, dtype=np.float32)[:, None, None]
    parameters = draw(3, in_plane_only=True)
    moved, moved_labels = resample_cuts(
        torch.from_numpy(image[:, :, None] * slices).to(device),
        torch.from_numpy(np.repeat(label_map[:, None], 3, axis=1)).to(device),
        to_matrices(parameters, device),
        (3, 12, 12),
    )
    flat, flat_labels = resample_cuts(
        torch.from_numpy(image).to(device),
        torch.from_numpy(label_map).to(device),
        to_matrices(parameters, device),
        (12, 12),
    )
    for number in range(3):
        assert torch.allclose(moved[:, :, number], flat * (number + 1), atol=1e-5)
        assert torch.equal(moved_labels[:, number], flat_labels)
    assert not torch.allclose(flat, torch.from_numpy(image[:, :, 6:18, 6:18]).to(device))


@pytest.mark.parametrize("cut", [(12, 14, 10), (12, 14)])
def test_how_many_corners_are_compared_at_once_changes_no_label(monkeypatch, device, cut):
    _, label_map = draw_cuts(cut)
    positions = torch.rand((4, len(cut), *cut), device=device) * 11 - 1
    found = []
    for corners in (1, 3, 8):
        compared_bytes = corners * 2 ** len(cut) * label_map.size * resampling.BYTES_PER_COMPARISON
        monkeypatch.setattr(resampling, "COMPARISON_BYTES", compared_bytes)
        found.append(interpolate_label_maps(torch.from_numpy(label_map[:, None]).to(device), positions))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert len(found[0].unique()) == 5
