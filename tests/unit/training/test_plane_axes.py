"""A 2D network that sees slices across several axes: its patches, and what it predicts."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_transforms

from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.inference.options import PredictionOptions
from autoseg.inference.sliding_window.planes import predict_planes
from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.inference.sliding_window.windows import count_passes, count_windows
from autoseg.networks import build_network
from autoseg.networks.weights import read_weights
from autoseg.plan import ConfigurationPlan
from autoseg.plan.objectives import AdversarialObjective, DenoisingObjective, PointRendObjective
from autoseg.preprocessing.cache import open_case
from autoseg.run_folder import FoldFolder
from autoseg.runtime.distributed import BatchPart
from autoseg.stages.stored_maps import open_stage_map
from autoseg.training.data.randomness import BatchKey, derive_seeds
from autoseg.training.monitoring.events import EpochDone
from autoseg.training.objectives import build_objective
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train

CPU = torch.device("cpu")
ORDERS = {0: (0, 1, 2), 1: (1, 2, 0), 2: (2, 0, 1)}
PADDING = 16


def plan_planes(plane_axes=(0, 1, 2), *, transforms=(), channels=1, previous=None, **training):
    whole = (1.0,) * (2 if plane_axes == (0,) else 3)
    return build_configuration(
        (16, 16),
        data_of="tiny",
        plane_axes=plane_axes,
        previous=previous,
        spacing_mm=whole,
        median_shape_voxels=whole,
        network={"input_channels": channels, "output_channels": 2},
        training={"transforms": transforms, "foreground_fraction": 1.0, "batch_size": 3} | training,
    )


def make_batch(source, iteration):
    """A batch, and the places from which its patches are cut."""
    key = BatchKey(stream="training", epoch=0, iteration=iteration)
    generators = [np.random.default_rng(derive_seeds(7, key, index)) for index in range(3)]
    cuts = [source.training.sampler.place(index, generator) for index, generator in enumerate(generators)]
    return source.make_batch(key), cuts


def find_slice(volume, cut):
    """The slice that a cut shows, of the volume with its axes in the order of the cut."""
    z, y, x = (start + PADDING for start in cut.start)
    padded = np.pad(volume.transpose(ORDERS[cut.axes[0]]), PADDING)
    return padded[z, y : y + 16, x : x + 16]


@pytest.mark.parametrize("where", [None, "device", "host", "disk"])
def test_patches_are_slices_across_all_axes_that_show_the_chosen_voxel(make_source, data_folder, where):
    source, across = make_source(plan_planes(), where), set()
    for iteration in range(4):
        batch, cuts = make_batch(source, iteration)
        for cut, image, label_map in zip(cuts, batch.image.numpy(), batch.label_map.numpy(), strict=True):
            case = open_case(data_folder, cut.case.name)
            assert cut.axes == ORDERS[cut.axes[0]]
            assert np.array_equal(image[0], find_slice(case.image[0], cut))
            assert np.array_equal(label_map, find_slice(case.label_map[:], cut))
            assert label_map.max() == 1
            across.add(cut.axes[0])
    assert across == {0, 1, 2}


def test_axes_that_are_left_out_are_not_drawn(make_source):
    source = make_source(plan_planes((0, 2)))
    assert {cut.axes[0] for iteration in range(6) for cut in make_batch(source, iteration)[1]} == {0, 2}


@pytest.mark.parametrize("where", [None, "device", "disk"])
def test_masks_of_a_previous_stage_are_those_of_the_same_slice(make_source, previous, data_folder, where):
    source = make_source(plan_planes(channels=2, previous="3d_lowres"), where, previous)
    for iteration in range(2):
        batch, cuts = make_batch(source, iteration)
        for cut, image in zip(cuts, batch.image.numpy(), strict=True):
            case = open_case(data_folder, cut.case.name)
            stage_map = open_stage_map(previous.folder, case.name, case.geometry)
            assert np.array_equal(image[1], find_slice(stage_map[:], cut))


@pytest.fixture
def network():
    """A network of random weights, which sees rows and columns differently."""
    built = build_network(plan_planes().network, torch.Generator().manual_seed(0)).eval()
    built.set_deep_supervision(enabled=False)
    return built


def draw_volume():
    return torch.randn(1, 9, 20, 17, generator=torch.Generator().manual_seed(1))


def predict(network, image, plan, *, function=predict_planes, **options):
    return function(network, image, configuration=plan, mirror_axes=(1,), device=CPU, **options)


def test_an_answer_is_the_mean_of_those_of_the_planes(network):
    image, answers = draw_volume(), []
    for axis in (0, 2):
        order = ORDERS[axis]
        seen = image.permute(0, *(1 + place for place in order))
        answer = predict(network, seen, plan_planes((0,)), function=predict_logits)
        answers.append(answer.permute(0, *(1 + place for place in np.argsort(order).tolist())))
    torch.testing.assert_close(predict(network, image, plan_planes((0, 2))), (answers[0] + answers[1]) / 2)


def test_a_plan_of_the_first_axis_alone_predicts_as_2d_to_the_last_bit(network):
    image, plan = draw_volume(), plan_planes((0,))
    theirs = predict(network, image, plan, function=predict_logits)
    assert torch.equal(predict(network, image, plan), theirs)


def test_prediction_commutes_with_moving_the_axes_on(network):
    image, plan = draw_volume(), plan_planes()
    theirs = predict(network, image, plan)
    torch.testing.assert_close(predict(network, image.permute(0, 2, 3, 1), plan), theirs.permute(0, 2, 3, 1))


def test_windows_of_all_axes_are_counted(network):
    seen = []
    predict(network, draw_volume(), plan_planes(), on_window=lambda done, total: seen.append((done, total)))
    # 9 slices of 20 x 17, 20 of 17 x 9 and 17 of 9 x 20, of which extents over 16 need two windows
    windows = 9 * 2 * 2 + 20 * 2 * 1 + 17 * 1 * 2
    assert count_windows((9, 20, 17), plan_planes(), 0.5) == windows
    assert count_passes((9, 20, 17), plan_planes(), PredictionOptions(mirroring=False)) == windows
    assert seen[-1] == (windows, windows)
    assert all(before[0] < after[0] for before, after in pairwise(seen))


def test_a_training_that_is_continued_is_that_which_was_not_interrupted(training_data, tmp_path):
    plan = plan_planes(transforms=build_transforms(noise={}, mirror={"axes": (0, 1)}), epochs=2)

    def run(name, *, stop_after=None):
        options = TrainingOptions(device=CPU, seed=0, workers=0)
        for event in train(plan, training_data, output=FoldFolder(tmp_path / name), options=options):
            if isinstance(event, EpochDone) and event.record.epoch == stop_after:
                break

    run("whole")
    run("halves", stop_after=0)
    run("halves")
    whole, halves = (read_weights(FoldFolder(tmp_path / name).final_checkpoint) for name in ("whole", "halves"))
    assert all(torch.equal(weight, halves[name]) for name, weight in whole.items())


CLICKS = {
    "input": "clicks",
    "configuration": "3d_lowres",
    "reach_mm": 4.0,
    "edge_mm": 1.0,
    "first_weights": "random",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plane_axes": []}, r"plane_axes"),
        ({"plane_axes": [0, 3]}, r"plane_axes\.1"),
        ({"plane_axes": [2, 0]}, r"plane_axes must be different axes in ascending order \(got \[2, 0\]\)"),
        ({"spacing_mm": [1.0, 1.0]}, r"spacing_mm must have 3 values"),
        ({"context_slices": 1}, r"context_slices must be 0 where plane_axes are \[0, 1, 2\] \(got 1\)"),
        ({"previous_stage": CLICKS}, r"previous_stage\.input must not be 'clicks' where plane_axes are \[0, 1, 2\]"),
    ],
)
def test_what_does_not_go_with_several_planes_is_refused(changes, message):
    content = plan_planes().model_dump(mode="json") | changes
    with pytest.raises(DocumentError, match=message):
        parse_part(content, ConfigurationPlan, where="plan.json")


def test_exchanging_left_and_right_does_not_go_with_several_planes():
    with pytest.raises(ValueError, match=r"must hold no mirror_pairs where plane_axes are \[0, 1, 2\]"):
        plan_planes(transforms=build_transforms(mirror_pairs={}))


def test_a_network_of_volumes_has_no_planes():
    content = build_configuration((8, 8, 8)).model_dump(mode="json") | {"plane_axes": [0, 1]}
    with pytest.raises(DocumentError, match=r"plane_axes must be \[0\] for a 3D network, which sees no slices"):
        parse_part(content, ConfigurationPlan, where="plan.json")


def test_plans_of_earlier_versions_have_slices_across_the_first_axis():
    content = build_configuration((16, 16)).model_dump(mode="json")
    del content["plane_axes"]
    plan = parse_part(content, ConfigurationPlan, where="plan.json")
    assert (plan.plane_axes, plan.patch_spacing_mm) == ((0,), plan.spacing_mm)


def test_pixels_of_a_patch_are_as_long_as_those_of_the_planes_on_average():
    content = plan_planes().model_dump(mode="json") | {"spacing_mm": [3.0, 1.0, 2.0], "plane_axes": [0, 1]}
    plan = parse_part(content, ConfigurationPlan, where="plan.json")
    assert plan.patch_spacing_mm == (1.5, 2.5)  # of 1 x 2 and of 2 x 3


@pytest.mark.parametrize(
    ("objective", "network"),
    [
        (
            AdversarialObjective(adversarial_weight=0.0, discriminator_features=(4,), discriminator_strides=((2, 2),)),
            "plain_unet",
        ),
        (PointRendObjective(candidates_per_point=3, uncertain_fraction=0.75, point_weight=1.0), "point_rend"),
        (
            DenoisingObjective(estimate_weight=1.0, segmentation_weight=1.0, last_step_fraction=0.5, image_dropout=0.0),
            "diffusion_unet",
        ),
    ],
    ids=["adversarial", "point_rend", "denoising"],
)
def test_every_objective_measures_boundaries_by_the_mean_spacing_of_the_slices(objective, network):
    plan = plan_planes()
    plan = plan.model_copy(
        update={
            "spacing_mm": (3.0, 1.0, 1.0),
            "network": build_small_network_plan(network, 2),
            "training": plan.training.model_copy(update={"objective": objective}),
        }
    )
    built = build_objective(
        plan, build_labels({"one": (1,), "two": (2,)}), build_network(plan.network), part=BatchPart(), seed=0
    )
    assert built.loss.spacing_mm == pytest.approx((5 / 3, 5 / 3))
