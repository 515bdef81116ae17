"""Shearing and elastic deformation, composed with rotation and scaling into one interpolation."""

from math import radians

import numpy as np
import pytest
from scipy import ndimage

from autoseg.plan.elastic import ELASTIC_PLANS
from autoseg.training.augmentation.displacements import compute_bases, compute_displacements, draw_displacements
from autoseg.training.augmentation.enlarged_patch import compute_enlarged_patch
from autoseg.training.augmentation.spatial import (
    SpatialParameters,
    compute_shear,
    compute_source_positions,
    draw_spatial_parameters,
    interpolate_image,
    interpolate_label_map,
)
from autoseg.training.augmentation.tensors.resampling import resample_cuts
from autoseg.training.augmentation.tensors.transfer import copy_together

FIELDS = {
    "coarse_grid": {"nodes_per_axis": 3},
    "spaced_grid": {"spacing_voxels": 8.0},
    "smoothed": {"sigma_voxels": 3.0},
}


def plan_field(name, *, std_voxels=10.0, probability=1.0, **changes):
    parameters = FIELDS[name] | changes
    return ELASTIC_PLANS[name].model_validate(
        {"field": name, "probability": probability, "std_voxels": std_voxels} | parameters
    )


def draw_many(plan, extents, count, *, device=None):
    if device is None:
        return np.stack([draw_displacements(plan, extents) for _ in range(count)])
    keys = np.random.default_rng(1).integers(2**63, size=count)
    keys, std_voxels = copy_together([keys, np.full(count, plan.std_voxels)], device)
    return compute_displacements(plan, extents, keys=keys, std_voxels=std_voxels).cpu().numpy()


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", FIELDS)
def test_displacements_have_the_planned_standard_deviation_at_the_nodes(device, name, on_device):
    drawn = draw_many(plan_field(name), (17, 17), 1500, device=device if on_device else None)
    nodes = drawn[:, :, ::8, ::8]  # of both grids; the smoothed field has nodes everywhere
    assert drawn.shape == (1500, 2, 17, 17)
    assert nodes.mean() == pytest.approx(0, abs=0.3)
    assert nodes.std(axis=0) == pytest.approx(10, rel=0.08)  # of each node alone
    assert nodes.std() == pytest.approx(10, rel=0.05)
    assert abs(np.corrcoef(drawn[:, 0, 8, 8], drawn[:, 1, 8, 8])[0, 1]) < 0.1


@pytest.mark.parametrize("name", FIELDS)
def test_fields_of_a_device_and_of_worker_processes_are_alike(device, name):
    plan = plan_field(name)
    crossed, along = compute_bases(plan, (9, 13))
    expected = plan.std_voxels**2 * (crossed @ crossed.T)[4, 4] * (along @ along.T)
    for place in (device, None):
        measured = np.cov(draw_many(plan, (9, 13), 1500, device=place)[:, 0, 4].T)
        assert np.abs(measured - expected).max() < 20  # of 100: the standard error is 3.7, and voxels are alike


@pytest.mark.parametrize("name", ["coarse_grid", "spaced_grid"])
def test_between_nodes_displacements_are_interpolated_by_smooth_cubics(name):
    (basis,) = compute_bases(plan_field(name), (33,))
    assert basis.sum(axis=1) == pytest.approx(1)
    nodes = np.linspace(0, 32, basis.shape[1])
    assert basis @ nodes == pytest.approx(np.arange(33))
    at_nodes = np.round(nodes).astype(int)
    assert basis[at_nodes] == pytest.approx(np.eye(len(nodes)), abs=1e-12)
    third = np.diff(basis, n=3, axis=0)  # constant within a cubic; its second derivative does not jump
    assert np.abs(np.diff(basis, n=2, axis=0)).max() < 10 / (nodes[1] ** 2)
    assert np.ptp(third[: at_nodes[1] - 3], axis=0) == pytest.approx(0, abs=1e-9)


def test_the_smoothed_field_is_as_alike_as_its_gaussian_says():
    plan = plan_field("smoothed", std_voxels=1.0)
    (basis,) = compute_bases(plan, (64,))
    covariance = basis @ basis.T
    assert np.diag(covariance) == pytest.approx(1)
    distances = np.arange(10)
    assert covariance[20, 20:30] == pytest.approx(np.exp(-(distances**2) / (4 * 3.0**2)), abs=1e-3)
    noise = np.random.default_rng(0).normal(size=64)
    smoothed = ndimage.gaussian_filter1d(noise, 3.0, mode="wrap")
    assert np.corrcoef(basis @ noise, smoothed)[0, 1] == pytest.approx(1)


def test_an_axis_of_one_voxel_has_a_displacement_of_its_own():
    for name in FIELDS:
        drawn = draw_many(plan_field(name), (1, 17), 2000)
        assert drawn.shape == (2000, 2, 1, 17)
        assert drawn[..., 8].std() == pytest.approx(10, rel=0.05)


def test_a_displacement_is_added_behind_rotation_scaling_and_shear():
    shear = compute_shear(2, 1, 0, degrees=45.0)
    parts = {"angles_radians": (radians(90),), "scale": 2.0, "shear": shear}
    patch, cut = (3, 3), (21, 21)
    without = compute_source_positions(SpatialParameters(**parts), patch, cut)
    moved = np.zeros((2, *patch))
    moved[1] = 3
    with_it = compute_source_positions(SpatialParameters(**parts, displacements=moved), patch, cut)
    assert np.array_equal(with_it - without, moved)
    plain = compute_source_positions(SpatialParameters(angles_radians=(radians(90),), scale=2.0), patch, cut)
    step_x, step_y = plain[:, 1, 2] - plain[:, 1, 1], plain[:, 2, 1] - plain[:, 1, 1]
    assert without[:, 1, 2] - without[:, 1, 1] == pytest.approx(step_x + step_y)  # one voxel along x leans along y
    assert without[:, 2, 1] - without[:, 1, 1] == pytest.approx(step_y)


def test_image_and_labels_follow_the_displacements_in_the_same_interpolation():
    label_map = np.arange(100, dtype=np.int16).reshape(10, 10)
    displacements = np.zeros((2, 4, 4))
    displacements[0, :, 2:] = 2
    parameters = SpatialParameters(angles_radians=None, scale=None, displacements=displacements)
    positions = compute_source_positions(parameters, (4, 4), (10, 10))
    expected = np.concatenate([label_map[3:7, 3:5], label_map[5:9, 5:7]], axis=1)
    assert np.array_equal(interpolate_label_map(label_map, positions), expected)
    assert np.array_equal(interpolate_image(label_map.astype(np.float32), positions), expected)


@pytest.mark.parametrize("shape", [(12, 14), (6, 12, 14)])
def test_a_device_interpolates_at_the_same_positions(draw_image, device, shape):
    copy = pytest.importorskip("torch").from_numpy
    image = draw_image(shape, batch=1)
    label_map = np.kron(
        np.random.default_rng(0).integers(3, size=tuple(e // 2 for e in shape)), np.ones((2,) * len(shape))
    )
    patch = tuple(extent - 2 for extent in shape)
    parameters = SpatialParameters(
        angles_radians=None,
        scale=None,
        shear=compute_shear(len(shape), 0, 1, degrees=20.0),
        displacements=draw_displacements(plan_field("coarse_grid", std_voxels=1.0), patch),
    )
    positions = compute_source_positions(parameters, patch, shape)
    changed, labels = resample_cuts(
        copy(image).to(device),
        copy(label_map[None].astype(np.int16)).to(device),
        copy(parameters.shear[None].astype(np.float32)).to(device),
        patch,
        displacements=copy(parameters.displacements[None].astype(np.float32)).to(device),
    )
    for channel in range(2):
        expected = interpolate_image(image[0, channel], positions)
        assert np.allclose(changed[0, channel].cpu(), expected, atol=1e-4)
    agree = labels[0].cpu().numpy() == interpolate_label_map(label_map.astype(np.int16), positions)
    assert agree.mean() > 0.98  # but for ties and the last bit


ROTATED = {"rotation_probability": 0.7, "scaling_probability": 0.7}
FIXED = {"std_range": (0.1, 0.1)}  # so that nothing is drawn from `random`, as the type checks do
STILL = {"field": "coarse_grid", "probability": 1.0, "std_voxels": 0.0, "nodes_per_axis": 3}


@pytest.mark.parametrize("elastic", [None, STILL, STILL | {"std_voxels": 9.0, "probability": 0.0}])
def test_a_deformation_of_nothing_is_the_spatial_transform_bit_for_bit(plan_transforms, augment, draw_patch, elastic):
    spatial = plan_transforms(spatial=ROTATED, noise=FIXED)
    deformation = plan_transforms(deformation=ROTATED | {"elastic": elastic}, noise=FIXED)
    patch, sample = (6, 7, 8), draw_patch()
    assert compute_enlarged_patch(patch, spatial) == compute_enlarged_patch(patch, deformation)
    for seed in range(6):
        np.random.seed(seed)
        expected = augment(spatial, *sample, patch=patch)
        np.random.seed(seed)
        found = augment(deformation, *sample, patch=patch)
        assert all(map(np.array_equal, found, expected))


def test_on_a_device_too(plan_transforms, augment_on_device, draw_image):
    image = draw_image((8, 10, 12), batch=8)
    label_map = (image[:, 0] > 1).astype(np.int16)
    spatial = plan_transforms(spatial=ROTATED, noise=FIXED)
    deformation = plan_transforms(deformation=ROTATED | {"elastic": STILL}, noise=FIXED)
    found, expected = (augment_on_device(plans, image, label_map, patch=(6, 7, 8)) for plans in (deformation, spatial))
    assert all(map(np.array_equal, found, expected))


def test_elastic_samples_alone_are_deformed(plan_transforms, augment_on_device, draw, draw_image):
    image = draw_image((12, 14), batch=12)
    label_map = (image[:, 0] > 1).astype(np.int16)
    half = {"elastic": STILL | {"std_voxels": 3.0, "probability": 0.5}, "scaling_probability": 0.3}
    plans = plan_transforms(deformation=half)
    (drawn,) = draw(plans, count=12, patch=(6, 8))
    found, _ = augment_on_device(plans, image, label_map, patch=(6, 8))
    without, _ = augment_on_device(
        plan_transforms(deformation=half | {"elastic": None}), image, label_map, patch=(6, 8)
    )
    is_changed = (found != without).any(axis=(1, 2, 3))
    assert np.array_equal(is_changed, drawn.is_elastic)
    assert 0 < drawn.is_elastic.sum() < 12
    assert np.array_equal(drawn.is_warped, drawn.is_elastic | (drawn.scale != 1))


def test_shear_and_elastic_deformation_happen_as_often_and_as_much_on_a_device_as_in_worker_processes(
    plan_transforms, draw
):
    elastic = STILL | {"std_voxels": 3.0, "probability": 0.3}
    plans = plan_transforms(deformation={"shear_probability": 0.6, "elastic": elastic})
    (drawn,) = draw(plans, patch=(4, 5, 6))
    known = [draw_spatial_parameters(plans[0], (4, 5, 6)) for _ in range(800)]
    sheared = [parameters.shear for parameters in known if parameters.shear is not None]
    assert len(sheared) / 800 == pytest.approx(0.6, abs=0.06)
    assert sum(parameters.displacements is not None for parameters in known) / 800 == pytest.approx(0.3, abs=0.06)
    assert drawn.is_elastic.mean() == pytest.approx(0.3, abs=0.06)
    for matrices in (np.stack(sheared), drawn.shear[(drawn.shear != np.eye(3)).any(axis=(1, 2))]):
        assert len(matrices) / 800 == pytest.approx(0.6, abs=0.06)
        off_diagonal = matrices - np.eye(3)
        assert np.linalg.det(matrices) == pytest.approx(1)
        assert ((off_diagonal != 0).sum(axis=(1, 2)) == 1).all()
        assert ((off_diagonal != 0).mean(axis=0)[~np.eye(3, dtype=bool)] > 0.1).all()  # 1/6 for each pair of axes
        degrees = np.degrees(np.arctan(off_diagonal[off_diagonal != 0]))
        assert (degrees.min(), degrees.max()) == pytest.approx((-20, 20), abs=0.5)
        assert degrees.std() == pytest.approx(20 / np.sqrt(3), rel=0.1)


def test_in_plane_deformations_move_all_slices_alike(plan_transforms, augment):
    plane = np.random.default_rng(0).normal(size=(2, 1, 30, 30)).astype(np.float32)
    image, label_map = np.repeat(plane, 3, axis=1), np.zeros((3, 30, 30), dtype=np.int16)
    elastic = STILL | {"std_voxels": 4.0}
    plans = plan_transforms(deformation={"in_plane_only": True, "elastic": elastic})
    changed, _ = augment(plans, image, label_map, patch=(3, 12, 12))
    assert np.array_equal(changed[:, 0], changed[:, 2])
    assert not np.array_equal(changed[:, 0], plane[:, 0, 9:21, 9:21])


def test_cuts_hold_what_deformation_moves_into_the_patch(plan_transforms):
    still = {"rotation_limit_degrees": 0.0, "scaling_range": (1.0, 1.0)}
    elastic = STILL | {"std_voxels": 10.0}
    assert compute_enlarged_patch((34, 34), plan_transforms(deformation=still)) == (34, 34)
    assert compute_enlarged_patch((34, 34), plan_transforms(deformation=still | {"elastic": elastic})) == (80, 80)
    sheared = still | {"shear_probability": 0.1, "shear_limit_degrees": 45.0}
    assert compute_enlarged_patch((34, 17), plan_transforms(deformation=sheared)) == (60, 60)
    flat = still | {"elastic": elastic, "in_plane_only": True}
    assert compute_enlarged_patch((3, 34, 34), plan_transforms(deformation=flat)) == (3, 80, 80)


def test_of_spatial_transform_and_deformation_one_may_stand_first(plan_configuration, plan_transforms):
    for plans in (plan_transforms(spatial={}, deformation={}), plan_transforms(noise={}, deformation={})):
        with pytest.raises(ValueError, match=r"'deformation' must be the first transform and stand once \(found at"):
            plan_configuration(transforms=plans)


def test_unknown_fields_of_displacements_are_refused_by_name(plan_transforms):
    with pytest.raises(ValueError, match=r"'field' must be one of coarse_grid, spaced_grid, smoothed \(got 'coarse'\)"):
        plan_transforms(deformation={"elastic": STILL | {"field": "coarse"}})
