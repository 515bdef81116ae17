from functools import partial

import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan
from builders.preprocessing import preprocess_image

from autoseg.errors import PredictionError
from autoseg.geometry import Grid
from autoseg.inference.model import load_model
from autoseg.inference.options import PredictionOptions
from autoseg.inference.restoring.restore_grid import restore_label_map
from autoseg.plan import MasksOfPreviousStage
from autoseg.plan.augmentation import MirrorPlan
from autoseg.preprocessing.resample import resample_label_map
from autoseg.stages.inputs import build_previous_input
from autoseg.stages.preparation import preprocess_for_stages
from autoseg.stages.previous_input import StagePrediction

CASCADE = "3d_cascade_fullres"


@pytest.fixture
def plan():
    """A cascade whose first stage has half the resolution."""
    second = build_configuration((8, 8, 8), spacing_mm=(1.0, 1.0, 1.0), network={"input_channels": 3})
    return build_plan(
        {
            "3d_fullres": build_configuration((8, 8, 8), spacing_mm=(1.0, 1.0, 1.0)),
            "3d_lowres": build_configuration((8, 8, 8), spacing_mm=(2.0, 2.0, 2.0)),
            CASCADE: second.model_copy(update={"previous_stage": MasksOfPreviousStage(configuration="3d_lowres")}),
        },
        orientation="LPS",
        axis_permutation=(1, 0, 2),
    )


@pytest.fixture
def train(tmp_path, plan):
    def write(configuration, fold="0", *, by=plan, seed=0):
        return write_trained_fold(tmp_path, by, configuration, fold=fold, seed=seed)

    return write


@pytest.fixture
def load(tmp_path):
    return lambda **options: load_model(tmp_path, device="cpu", **options)


@pytest.fixture
def volume():
    """Empty at its borders, so that it is cropped; blocks of 2 voxels."""
    array = np.zeros((1, 12, 16, 14), np.float32)
    blocks = np.random.default_rng(0).normal(size=(1, 5, 6, 5)).astype(np.float32)
    array[:, 2:12, 2:14, 2:12] = blocks.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    return array, Grid(shape_voxels=(12, 16, 14), spacing_mm=(1.0, 1.0, 1.0))


def make_logits(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(3, *shape)).astype(np.float32))


def describe(logits, geometry, plan, name):
    """What a stage whose network gave these logits says about a case."""
    labels, resampling = plan.labels, plan.configurations[name].resampling
    return StagePrediction(
        geometry=geometry,
        restore_label_map=partial(restore_label_map, logits, labels=labels, resampling=resampling),
    )


def test_a_case_is_preprocessed_for_all_stages(plan, volume):
    case = preprocess_for_stages(*volume, plan, CASCADE)
    first = preprocess_for_stages(*volume, plan, "3d_lowres")
    assert (first.previous, first.nonzero_mask) == (None, None)
    assert np.array_equal(first.image, preprocess_image(*volume, plan, "3d_lowres").image)
    assert np.array_equal(case.image, preprocess_image(*volume, plan, "3d_fullres").image)
    assert np.array_equal(case.previous.image, first.image)
    assert case.previous.geometry == first.geometry
    assert case.nonzero_mask.shape == case.geometry.cropped_shape_voxels


def test_a_new_image_gets_the_masks_that_its_finished_label_map_would_have(plan, train, load, volume):
    train("3d_lowres")
    train(CASCADE)
    model, first = load(configuration=CASCADE), load(configuration="3d_lowres")
    case = model.preprocess(*volume)
    label_map = plan.labels.encode(first.predict_volume(*volume))
    geometry = case.geometry
    expected = resample_label_map(
        np.ascontiguousarray(geometry.reorientation.apply(label_map)[geometry.crop_slices]),
        shape=geometry.resampled_shape_voxels,
        spacing_mm=geometry.cropped_spacing_mm,
        target_spacing_mm=geometry.target_spacing_mm,
        plan=model.configuration_plan.resampling,
    )
    full = np.concatenate([case.image, [expected == 1, expected == 2]], dtype=np.float32)
    assert full[1:].any(axis=(1, 2, 3)).all()
    assert torch.equal(model.predict_case(case), model.predict_preprocessed(full))
    assert np.array_equal(
        model.predict_volume(*volume), model.restore_label_map(model.predict_preprocessed(full), geometry)
    )


def test_background_outside_the_nonzero_region_is_in_no_mask(plan, volume):
    array, grid = volume
    array[:, 2:12:9, 2, 2] = 0  # two corners of the crop lie outside
    case = preprocess_for_stages(array, grid, plan, CASCADE)
    logits = torch.zeros(3, *case.previous.geometry.resampled_shape_voxels)
    logits[0] = 1
    prediction = describe(logits, case.previous.geometry, plan, "3d_lowres")
    resampling = plan.configurations[CASCADE].resampling
    brought = build_previous_input(plan, CASCADE).convert_for_prediction(prediction, case, resampling=resampling)
    assert set(np.unique(brought)) == {-1, 0}
    assert np.array_equal(brought == -1, ~case.nonzero_mask)


def test_options_reach_both_stages(train, load, volume):
    train("3d_lowres")
    train(CASCADE)
    model, calls = load(configuration=CASCADE), []
    model.predict_case(
        model.preprocess(*volume),
        options=PredictionOptions(step_fraction=1.0),
        on_window=lambda done, total: calls.append(total),
    )
    assert len(set(calls)) == 2  # the two stages have different numbers of windows


def test_for_training_logits_go_straight_to_the_grid_of_the_second_stage(plan, volume):
    first = preprocess_image(*volume, plan, "3d_lowres").geometry
    target = preprocess_image(*volume, plan, CASCADE).geometry
    logits = make_logits(first.resampled_shape_voxels)
    prediction = describe(logits, first, plan, "3d_lowres")
    brought = build_previous_input(plan, CASCADE).convert_for_training(prediction, target)
    expected = torch.nn.functional.interpolate(
        logits[None], size=target.resampled_shape_voxels, mode="trilinear", align_corners=False
    )[0].argmax(dim=0)
    assert target.resampled_shape_voxels != first.resampled_shape_voxels
    assert (brought == expected.numpy()).mean() > 0.999
    assert brought.dtype == np.int16


def test_a_cascade_takes_the_same_folds_of_its_first_stage(train, load):
    for fold in ("0", "1", "2"):
        train("3d_lowres", fold)
    for fold in ("0", "1", "all"):
        train(CASCADE, fold)
    model = load(configuration=CASCADE, folds=("1",))
    assert [(stage.configuration, stage.folds) for stage in model.stages] == [("3d_lowres", ("1",)), (CASCADE, ("1",))]
    assert load(configuration=CASCADE).previous.folds == ("0", "1", "2")
    assert load(configuration=CASCADE, folds=("all",)).previous.folds == ("0", "1", "2")


def test_a_cascade_comes_before_its_first_stage_where_none_is_named(train, load):
    train("3d_lowres")
    train(CASCADE)
    assert load().configuration == CASCADE
    train("3d_fullres")
    assert load().configuration == "3d_fullres"


def test_a_cascade_without_its_first_stage_is_refused(train, load):
    train(CASCADE)
    with pytest.raises(PredictionError, match=r"no training of 3d_lowres is finished.*--configuration 3d_lowres"):
        load(configuration=CASCADE)
    assert load(configuration=CASCADE, with_previous=False).stages[0].configuration == CASCADE


def test_a_first_stage_may_be_mirrored_over_other_axes(plan, train, load):
    train(CASCADE)
    part = plan.configurations["3d_lowres"]
    transforms = (MirrorPlan(axes=(0,)),)
    mirrored = part.model_copy(update={"training": part.training.model_copy(update={"transforms": transforms})})
    train("3d_lowres", by=plan.model_copy(update={"configurations": plan.configurations | {"3d_lowres": mirrored}}))
    first = load(configuration=CASCADE).previous
    assert first.configuration_plan.training.mirror_axes == (0,)


def test_a_first_stage_of_another_plan_is_refused(plan, train, load):
    train(CASCADE)
    coarse = plan.configurations["3d_lowres"].model_copy(update={"spacing_mm": (3.0, 3.0, 3.0)})
    train("3d_lowres", by=plan.model_copy(update={"configurations": plan.configurations | {"3d_lowres": coarse}}))
    with pytest.raises(PredictionError, match=r"stages of a cascade must follow one plan.*3d_lowres again.*--restart"):
        load(configuration=CASCADE)
