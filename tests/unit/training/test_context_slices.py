"""A 2D network that also sees neighbouring slices: its patches, and what it predicts."""

import numpy as np
import pytest
import torch
from builders.plans import build_configuration, build_transforms
from torch import nn

from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.networks import build_network
from autoseg.networks.weights import read_weights
from autoseg.plan import ConfigurationPlan
from autoseg.preprocessing.cache import open_case
from autoseg.run_folder import FoldFolder
from autoseg.training.data.randomness import BatchKey, derive_seeds
from autoseg.training.monitoring.events import EpochDone
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train
from planners.rules.context_slices import with_context

CPU = torch.device("cpu")
KEY = BatchKey(stream="training", epoch=0, iteration=0)


def plan_context(context_slices=1, *, transforms=(), channels=1, **training):
    network = {"input_channels": channels * (2 * context_slices + 1), "output_channels": 2}
    return build_configuration(
        (16, 16),
        data_of="tiny",
        context_slices=context_slices,
        network=network,
        training={"transforms": transforms, "foreground_fraction": 1.0, "batch_size": 3} | training,
    )


@pytest.mark.parametrize("where", [None, "device", "disk"])
@pytest.mark.parametrize("count", [1, 2])
def test_channels_are_neighbouring_slices_and_the_reference_is_the_middle_one(make_source, data_folder, count, where):
    source = make_source(plan_context(count), where)
    cuts = [source.training.sampler.place(index, rng) for index, rng in enumerate(list_generators(source))]
    batch = source.make_batch(KEY)
    assert batch.image.shape == (3, 2 * count + 1, 16, 16)
    for cut, image, label_map in zip(cuts, batch.image.numpy(), batch.label_map.numpy(), strict=True):
        case, (z, y, x) = open_case(data_folder, cut.case.name), cut.start
        middle = z + count
        shown = np.clip(np.arange(middle - count, middle + count + 1), 0, 5)
        padded = np.pad(case.image[:][0], ((0, 0), (16, 16), (16, 16)))
        assert np.array_equal(image, padded[shown, y + 16 : y + 32, x + 16 : x + 32])
        labels = np.pad(case.label_map[:], ((0, 0), (16, 16), (16, 16)))
        assert np.array_equal(label_map, labels[middle, y + 16 : y + 32, x + 16 : x + 32])


def list_generators(source):
    return [np.random.default_rng(derive_seeds(7, KEY, index)) for index in range(3)]


def test_slices_are_drawn_as_for_single_ones(make_source):
    with_context, alone = make_source(plan_context(2)), make_source(plan_context(0))
    for ours, theirs in zip(list_generators(with_context), list_generators(alone), strict=True):
        wide, single = with_context.training.sampler.place(0, ours), alone.training.sampler.place(0, theirs)
        assert (wide.start[0] + 2, *wide.start[1:]) == single.start


@pytest.mark.parametrize("where", [None, "device"])
def test_mirroring_across_slices_reverses_the_channels(make_source, where):
    mirrored = make_source(plan_context(transforms=build_transforms(mirror={"axes": (0,)})), where)
    plain = make_source(plan_context(), where)
    orders = set()
    for iteration in range(4):
        key = BatchKey(stream="training", epoch=0, iteration=iteration)
        ours, theirs = mirrored.make_batch(key), plain.make_batch(key)
        assert torch.equal(ours.label_map, theirs.label_map)
        for image, other in zip(ours.image, theirs.image, strict=True):
            orders |= {
                name for name, each in (("kept", other), ("reversed", other.flip(0))) if torch.equal(image, each)
            }
    assert orders == {"kept", "reversed"}


class Shows(nn.Module):
    """Answers with one of its channels, and its negative."""

    def __init__(self, channel):
        super().__init__()
        self.channel = channel

    def forward(self, image):
        chosen = image[:, self.channel]
        return (torch.stack([chosen, -chosen], dim=1),)


def predict(network, image, plan, *, mirror_axes=(), **options):
    return predict_logits(network, image, configuration=plan, mirror_axes=mirror_axes, device=CPU, **options)


@pytest.mark.parametrize(("channel", "offset"), [(0, -1), (1, 0), (2, 1), (3, -1), (5, 1)])
def test_a_window_shows_the_neighbours_of_its_slice_and_repeats_the_outermost(channel, offset):
    image = torch.randn(2, 4, 20, 17, generator=torch.Generator().manual_seed(0))
    logits = predict(Shows(channel), image, plan_context(channels=2))
    expected = image[channel // 3][torch.arange(4).add(offset).clamp(0, 3)]
    torch.testing.assert_close(logits[0], expected)


def test_views_that_are_mirrored_across_slices_have_the_channels_in_reverse():
    image = torch.randn(1, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    both = predict(Shows(0), image, plan_context(), mirror_axes=(0,))
    before, after = (predict(Shows(channel), image, plan_context()) for channel in (0, 2))
    torch.testing.assert_close(both, (before + after) / 2)


def test_prediction_with_mirrored_views_commutes_with_mirroring_across_slices():
    plan = plan_context(2)
    network = build_network(plan.network, torch.Generator().manual_seed(0)).eval()
    network.set_deep_supervision(enabled=False)
    image = torch.randn(1, 6, 24, 18, generator=torch.Generator().manual_seed(1))
    ours, theirs = (predict(network, each, plan, mirror_axes=(0, 2)) for each in (image.flip(1), image))
    torch.testing.assert_close(ours.flip(1), theirs)


def test_a_network_that_ignores_the_neighbours_predicts_as_one_of_single_slices():
    none, wide = plan_context(0), plan_context(1)
    network = build_network(wide.network, torch.Generator().manual_seed(0)).eval()
    alone = build_network(none.network, torch.Generator().manual_seed(1)).eval()
    weights = network.state_dict()
    first = next(name for name, weight in weights.items() if weight.shape[1:2] == (3,))
    alone.load_state_dict(weights | {first: weights[first][:, 1:2]})
    weights[first][:, [0, 2]] = 0  # neighbours no longer count
    network.load_state_dict(weights)
    image = torch.randn(1, 3, 20, 16, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(predict(network, image, wide), predict(alone, image, none))


def test_without_neighbours_the_weights_become_those_of_the_2d_network_bit_for_bit(training_data, tmp_path):
    transforms = build_transforms(noise={}, mirror={"axes": (0, 1)})
    training = {"transforms": transforms, "foreground_fraction": 1.0, "iterations_per_epoch": 2}
    slices = build_configuration((16, 16), data_of="2d", network={"output_channels": 2}, training=training)
    weights = {}
    for name, plan in (("2d", slices), ("2.5d", with_context(slices, 0))):
        folder = FoldFolder(tmp_path / name)
        read = parse_part(plan.model_dump(mode="json"), ConfigurationPlan, where="plan.json")
        list(train(read, training_data, output=folder, options=TrainingOptions(device=CPU, seed=0, workers=0)))
        weights[name] = read_weights(folder.final_checkpoint)
    first = build_network(slices.network, torch.Generator().manual_seed(0)).state_dict()
    assert any(not torch.equal(weight, first[name]) for name, weight in weights["2d"].items() if name in first)
    assert weights["2d"].keys() == weights["2.5d"].keys()
    assert all(torch.equal(weight, weights["2.5d"][name]) for name, weight in weights["2d"].items())


def test_a_constant_window_is_predicted_once_for_all_views():
    image = torch.ones(1, 3, 16, 16)
    torch.testing.assert_close(predict(Shows(0), image, plan_context(), mirror_axes=(0, 1))[0], image[0])


def test_a_training_that_is_continued_is_that_which_was_not_interrupted(training_data, tmp_path):
    plan = plan_context(transforms=build_transforms(noise={}, mirror={"axes": (0, 1, 2)}), epochs=2)

    def run(name, *, stop_after=None):
        options = TrainingOptions(device=CPU, seed=0, workers=0)
        events = []
        for event in train(plan, training_data, output=FoldFolder(tmp_path / name), options=options):
            events.append(event)
            if isinstance(event, EpochDone) and event.record.epoch == stop_after:
                break
        return events

    run("whole")
    run("halves", stop_after=0)
    run("halves")
    whole, halves = (read_weights(FoldFolder(tmp_path / name).final_checkpoint) for name in ("whole", "halves"))
    assert all(torch.equal(weight, halves[name]) for name, weight in whole.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_slices": -1}, r"context_slices"),
        ({"context_slices": 17}, r"context_slices"),
        ({"dimensions": 3}, r"context_slices must be 0 for a 3D network"),
    ],
)
def test_impossible_context_is_refused(changes, message):
    if changes.get("dimensions") == 3:
        content = build_configuration((8, 8, 8), data_of="tiny").model_dump(mode="json") | {"context_slices": 1}
    else:
        content = plan_context().model_dump(mode="json") | changes
    with pytest.raises(DocumentError, match=message):
        parse_part(content, ConfigurationPlan, where="plan.json")


def test_slices_that_are_channels_must_not_be_turned_into_each_other():
    with pytest.raises(ValueError, match=r"transforms\.0 \(spatial\): in_plane_only must be true"):
        plan_context(transforms=build_transforms(spatial={}))
    plan_context(transforms=build_transforms(spatial={"in_plane_only": True}))


def test_plans_of_earlier_versions_have_no_context():
    content = build_configuration((16, 16)).model_dump(mode="json")
    del content["context_slices"]
    assert parse_part(content, ConfigurationPlan, where="plan.json").context_slices == 0
