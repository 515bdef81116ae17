"""Touching objects are separated by background, so that the weights between them are those of two objects."""

import numpy as np
import pytest
import torch
from builders.labels import build_labels
from builders.plans import build_preprocessing_plan

from autoseg.geometry import Grid
from autoseg.plan import Plan
from autoseg.plan.losses import BorderWeightedCrossEntropyTerm
from autoseg.preprocessing.pipeline import compute_resampling_task, prepare_case, preprocess_prepared_case
from autoseg.preprocessing.touching_objects import resample_objects, separate_objects
from autoseg.training.losses.distances import compute_border_exponentials
from autoseg.training.losses.targets import build_target

SIGMA = 5.0


def draw_pair(axes: int) -> np.ndarray:
    """Two boxes of 5 voxels that share a face."""
    objects = np.zeros((12,) * axes, dtype=np.int32)
    objects[(slice(1, 6), *[slice(3, 8)] * (axes - 1))] = 4
    objects[(slice(6, 11), *[slice(3, 8)] * (axes - 1))] = 9
    return objects if axes == 3 else objects[None]


def weigh(label_map: np.ndarray, dimensions: int) -> np.ndarray:
    """Weights between objects of a patch, of slices or volumes."""
    patch = torch.from_numpy(label_map if dimensions == 2 else label_map[None])
    target = build_target(patch, build_labels({"cell": (1,)}), spacing_mm=(1.0,) * dimensions)
    return 10 * compute_border_exponentials(target, SIGMA)[0, 0]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_weight_between_touching_objects_is_high_only_if_they_are_told_apart(dimensions: int) -> None:
    objects = draw_pair(dimensions)
    union = (objects > 0).astype(np.int16)
    separated = separate_objects(union, objects, dimensions=dimensions)
    between = (5, *[5] * (dimensions - 1))
    assert weigh(separated, dimensions)[between] == pytest.approx(10 * np.exp(-9 / 50), rel=1e-4)  # d1 1, d2 2
    assert not weigh(union, dimensions).any()
    assert set(np.argwhere(union != separated)[:, -dimensions]) == {5, 6}
    assert union.sum() - separated.sum() == 2 * 5 ** (dimensions - 1)


def test_slices_are_separated_in_their_plane_alone() -> None:
    objects = np.zeros((2, 4, 4), dtype=np.int32)
    objects[0], objects[1] = 1, 2
    label_map = np.ones((2, 4, 4), dtype=np.int16)
    assert np.array_equal(separate_objects(label_map, objects, dimensions=2), label_map)
    kept = separate_objects(label_map, objects, dimensions=3)
    assert np.array_equal(kept, label_map)  # both would vanish


def test_labels_that_differ_and_voxels_beyond_objects_are_left_alone() -> None:
    label_map = np.array([[[1, 1, 2, 2, 2, 2, 2, -1]]], dtype=np.int16)
    objects = np.array([[[1, 1, 2, 2, 2, 3, 3, 0]]], dtype=np.int32)
    separated = separate_objects(label_map, objects, dimensions=2)
    assert separated.tolist() == [[[1, 1, 2, 2, 0, 0, 2, -1]]]
    assert separate_objects(label_map, np.zeros_like(objects), dimensions=2).tolist() == label_map.tolist()


def test_an_object_that_would_vanish_keeps_its_voxels() -> None:
    objects = np.array([[[1, 1, 1, 2, 3, 3, 3]]], dtype=np.int32)
    label_map = np.ones((1, 1, 7), dtype=np.int16)
    assert separate_objects(label_map, objects, dimensions=2).tolist() == [[[1, 1, 0, 1, 0, 1, 1]]]


def test_numbers_of_objects_are_those_of_the_nearest_voxel() -> None:
    objects = np.arange(1, 5, dtype=np.int32).reshape(1, 1, 4)
    assert resample_objects(objects, (1, 1, 8)).ravel().tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert resample_objects(objects, (1, 1, 2)).ravel().tolist() == [2, 4]


def plan_border_loss(plan: Plan, objects: str) -> Plan:
    term = BorderWeightedCrossEntropyTerm(
        weight=1.0,
        background_weights=(1.0,),
        class_weights=(1.0, 1.0),
        border_weight=10.0,
        border_sigma_mm=SIGMA,
        objects=objects,  # type: ignore[arg-type]
    )
    parts = {
        name: part.model_copy(update={"training": part.training.model_copy(update={"losses": (term,)})})
        for name, part in plan.configurations.items()
    }
    return plan.model_copy(update={"configurations": parts})


def test_arrays_differ_only_for_plans_that_ask_for_it_and_are_separated_on_the_new_grid() -> None:
    objects = draw_pair(3)
    union = (objects > 0).astype(np.int16)
    image = np.random.default_rng(0).normal(size=(1, 12, 12, 12)).astype(np.float32) + 3
    grid = Grid(shape_voxels=(12, 12, 12), spacing_mm=(1.0, 1.0, 1.0))
    usual = build_preprocessing_plan(spacings_mm={"3d_fullres": (0.5, 1.0, 1.0), "2d": (1.0, 1.0)})
    plans = {name: plan_border_loss(usual, name) for name in ("components", "instances")}
    without = prepare_case(image, union, grid, usual)
    found = {}
    for name, plan in plans.items():
        prepared = prepare_case(image, union, grid, plan, objects=objects if name == "instances" else None)
        found[name] = preprocess_prepared_case(prepared, plan, "3d_fullres")
    before = preprocess_prepared_case(without, usual, "3d_fullres")
    assert np.array_equal(found["components"].label_map, before.label_map)
    assert np.array_equal(found["instances"].image, before.image)
    lost = before.label_map - found["instances"].label_map
    assert sorted(np.flatnonzero(lost.any(axis=(1, 2)))) == [11, 12]  # one voxel of the new grid on either side
    tasks = {name: compute_resampling_task(without, plans["instances"], name) for name in ("2d", "3d_fullres")}
    assert [task.separated_dimensions for task in tasks.values()] == [2, 3]
    assert compute_resampling_task(without, plans["components"], "2d").separated_dimensions == 0


def test_configurations_that_share_arrays_must_agree_on_objects() -> None:
    usual = build_preprocessing_plan(spacings_mm={"3d_fullres": (1.0, 1.0, 1.0)})
    plans = {name: plan_border_loss(usual, name) for name in ("components", "instances")}
    owner, sharing = (plans[name].configurations["3d_fullres"].model_dump() for name in ("components", "instances"))
    content = usual.model_dump() | {"configurations": {"3d_fullres": owner, "3d_cascade_fullres": sharing}}
    with pytest.raises(ValueError, match=r"3d_cascade_fullres\.training\.losses and those of 3d_fullres, whose"):
        Plan.model_validate(content)
