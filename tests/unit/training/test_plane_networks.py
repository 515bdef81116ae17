"""A network for the slices across each axis: how they are built, trained in turn, and predict."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.graphs import TapeGraphs
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_transforms
from builders.threads import use_one_thread

from autoseg.document import parse_part
from autoseg.errors import DocumentError, RunError
from autoseg.inference.execution.choice import Setting, prepare_networks
from autoseg.inference.options import ONE_IMAGE
from autoseg.inference.sliding_window.planes import predict_planes
from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.networks import build_network
from autoseg.networks.initialization import enlarge_kernels
from autoseg.networks.parts.planes import PlaneNetworks, PreparedPlanes, change_planes, list_planes, select_plane
from autoseg.networks.weights import read_weights, write_weights
from autoseg.plan import ConfigurationPlan
from autoseg.run_folder import FoldFolder
from autoseg.training.data.batch import Batch
from autoseg.training.data.batches import list_batch_keys
from autoseg.training.data.randomness import BatchKey, derive_seeds
from autoseg.training.monitoring.events import EpochDone
from autoseg.training.optimization import optimizer
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner, run_training_step, run_validation_step
from autoseg.training.step_graph import StepGraph
from autoseg.training.teacher import Teacher
from autoseg.training.trainer import train

CPU = torch.device("cpu")
ORDERS = {0: (0, 1, 2), 1: (1, 2, 0), 2: (2, 0, 1)}

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def plan_planes(plane_axes=(0, 1, 2), *, planes=None, transforms=(), **training):
    axes = 2 if plane_axes == (0,) else 3
    return build_configuration(
        (16, 16),
        data_of="tiny",
        plane_axes=plane_axes,
        spacing_mm=(1.0,) * axes,
        median_shape_voxels=(8.0,) * axes,
        network={
            "output_channels": 2,
            "features_per_stage": (4, 6, 8, 8),
            "planes": planes or len(plane_axes),
        },
        training={"transforms": transforms, "batch_size": 3} | training,
    )


def build(plan, seed=0):
    return build_network(plan.network, torch.Generator().manual_seed(seed))


def draw_batch(plane):
    generator = torch.Generator().manual_seed(plane)
    return Batch(
        image=torch.randn(3, 1, 16, 16, generator=generator),
        label_map=torch.randint(2, (3, 16, 16), generator=generator, dtype=torch.int16),
        plane=plane,
    )


def copy_weights(network):
    return [{name: weight.clone() for name, weight in one.state_dict().items()} for one in list_planes(network)]


def are_equal(first, second):
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_there_is_a_network_for_each_plane_with_first_weights_of_its_own():
    network, alone = build(plan_planes()), build(plan_planes(planes=1))
    assert isinstance(network, PlaneNetworks)
    first, second, third = copy_weights(network)
    assert {name.split(".", 2)[2] for name in network.state_dict()} == set(alone.state_dict())
    assert not are_equal(first, second)
    assert not are_equal(second, third)
    assert are_equal(first, copy_weights(build(plan_planes()))[0])
    assert sum(weight.numel() for weight in network.parameters()) == 3 * sum(
        weight.numel() for weight in alone.parameters()
    )


def test_weights_of_one_network_do_not_fit_and_it_is_said_what_has_to_be_equal():
    one, three = (build(plan_planes(planes=count)).state_dict() for count in (1, 3))
    with pytest.raises(RunError, match=r"plan both with the same architecture, network\.planes and dataset"):
        enlarge_kernels(one, three)


def test_a_call_computes_with_the_network_of_its_plane_which_has_all_outputs_or_one():
    network = build(plan_planes()).eval()
    image = draw_batch(0).image
    for plane, one in enumerate(list_planes(network)):
        assert torch.equal(network(image, plane=plane)[0], one(image)[0])
    assert torch.equal(network(image)[0], network(image, plane=0)[0])
    assert len(network(image, plane=2)) == len(network.output_weights) > 1
    assert network.output_targets == list_planes(network)[0].output_targets
    assert network.weight_outputs((3.0, 1.0)) == (0.75, 0.25)
    with network.single_output():
        assert len(network(image, plane=2)) == len(network.output_weights) == len(network.output_targets) == 1
    assert len(network.output_layers) == 3 * len(list_planes(network)[0].output_layers)


@pytest.mark.parametrize("iterations", [1, 2, 4, 5, 9])
def test_all_planes_have_as_many_batches_however_many_an_epoch_has(iterations):
    keys = itertools.islice(list_batch_keys(iterations, 1, first_epoch=0), 3 * (iterations + 1))
    counts = Counter((key.stream, key.find_plane(3)) for key in keys)
    expected = {"training": iterations, "validation": 1}
    assert counts == {(stream, plane): count for stream, count in expected.items() for plane in range(3)}


def test_a_network_that_sees_all_planes_is_that_of_each():
    network = build(plan_planes(planes=1))
    assert list_planes(network) == [network]
    assert [select_plane(network, plane) for plane in range(3)] == [network] * 3
    assert change_planes(network, torch.nn.Sequential)[0] is network


@pytest.mark.parametrize("where", [None, "device", "disk"])
@pytest.mark.parametrize("stream", ["training", "validation"])
def test_all_slices_of_a_batch_lie_across_one_axis_one_after_the_other(make_source, where, stream):
    source = make_source(plan_planes((0, 2)), where)
    for iteration in range(4):
        key = BatchKey(stream=stream, epoch=1, iteration=iteration)
        batch = source.make_batch(key)
        plane = (1 + iteration) % 2
        axis = (0, 2)[plane]
        assert batch.plane == plane
        alone = dataclasses.replace(source, planes=1)
        sampler = getattr(source, stream).sampler
        one_axis = dataclasses.replace(getattr(alone, stream), sampler=dataclasses.replace(sampler, plane_axes=(axis,)))
        expected = dataclasses.replace(alone, **{stream: one_axis}).make_batch(key)
        assert torch.equal(batch.image, expected.image)
        assert torch.equal(batch.label_map, expected.label_map)
        cuts = [one_axis.sampler.place(index, np.random.default_rng(derive_seeds(7, key, index))) for index in range(3)]
        assert {cut.axes for cut in cuts} == {ORDERS[axis]}


def test_batches_keep_their_plane_where_they_are_copied():
    assert draw_batch(2).move_to(CPU).plane == 2


def test_a_step_changes_the_network_of_its_plane_alone(labels):
    plan = plan_planes(weight_average_decay=0.9)
    learner = build_learner(plan, labels, device=CPU, seed=0)
    learner.train()
    for plane in (1, 2, 1):
        before = copy_weights(learner.network)
        run_training_step(learner, draw_batch(plane))
        after = copy_weights(learner.network)
        assert [are_equal(*pair) for pair in zip(before, after, strict=True)] == [other != plane for other in range(3)]
    learner.train(is_training=False)
    losses = [run_validation_step(learner, dataclasses.replace(draw_batch(0), plane=plane)).loss for plane in (0, 1)]
    assert losses[0] != losses[1]


def test_a_plane_is_trained_as_it_is_alone(labels):
    """Steps of other planes between do not matter."""
    together = build_learner(plan_planes(), labels, device=CPU, seed=0)
    alone = build_learner(plan_planes(planes=1), labels, device=CPU, seed=0)
    alone.network.load_state_dict(copy_weights(together.network)[1])
    for learner in (together, alone):
        learner.train()
        for step in range(4):
            batch = draw_batch(step % 2 if learner is together else 1)
            if learner is together or step % 2:
                run_training_step(learner, batch)
    assert are_equal(copy_weights(together.network)[1], copy_weights(alone.network)[0])


def test_a_teacher_answers_with_the_network_of_the_plane(labels, tmp_path):
    plan = plan_planes()
    path = tmp_path / "teacher.safetensors"
    taught = build(plan, seed=1)
    write_weights(path, taught.state_dict())
    learner = build_learner(
        plan, labels, device=CPU, seed=0, teacher=Teacher(plan=plan.network, checkpoint=path, digest="")
    )
    learner.train()
    asked = []
    for plane, one in enumerate(list_planes(learner.objective._frozen[0])):
        one.register_forward_hook(lambda module, inputs, output, plane=plane: asked.append(plane))
    for plane in (2, 0, 1):
        run_training_step(learner, draw_batch(plane))
    assert asked == [2, 0, 1]


@pytest.mark.parametrize(("own", "taught", "is_told"), [(3, 1, False), (3, 3, False), (1, 1, False), (1, 3, True)])
def test_a_teacher_with_a_network_for_each_plane_needs_to_be_told_the_plane(own, taught, is_told):
    teacher = Teacher(plan=plan_planes(planes=taught).network, checkpoint=Path("teacher.safetensors"), digest="")
    told = "it has a network for each of 3 plane axes, the plan has 1 (network.planes)"
    assert teacher.find_problem(plan_planes(planes=own)) == (told if is_told else None)


@pytest.mark.parametrize("failure", [None, RuntimeError("no room")])
def test_steps_of_each_network_are_captured_by_themselves_and_are_those_that_would_have_been_run(
    labels, monkeypatch, failure
):
    monkeypatch.setattr(optimizer, "is_on_gpu", lambda weights: True)
    told, graphs = [], TapeGraphs()
    plain, captured = (build_learner(plan_planes(), labels, device=CPU, seed=0) for _ in range(2))
    captured = dataclasses.replace(captured, graph=StepGraph(backend=graphs, announce=told.append))
    for step in range(15):
        if step == 7:  # the first plane is captured, and no other will be
            graphs.failure = failure
        batch = dataclasses.replace(draw_batch(step), plane=step % 3)
        assert run_training_step(captured, batch) == run_training_step(plain, batch)
    assert all(map(torch.equal, captured.parameters, plain.parameters))
    assert captured.graph.is_captured == (failure is None)
    assert graphs.calls[:8] == ["warm up"] * 6 + ["capture", "replay"]
    assert graphs.calls[8:] == (["capture", "replay"] * 2 + ["replay"] * 6 if failure is None else ["capture"])
    assert len(told) == (failure is not None)


def test_a_training_that_is_continued_is_that_which_was_not_interrupted(training_data, tmp_path):
    plan = plan_planes(transforms=build_transforms(noise={}, mirror={"axes": (0, 1)}), epochs=2, iterations_per_epoch=4)

    def run(name, *, stop_after=None, workers=0):
        options = TrainingOptions(device=CPU, seed=0, workers=workers)
        for event in train(plan, training_data, output=FoldFolder(tmp_path / name), options=options):
            if isinstance(event, EpochDone) and event.record.epoch == stop_after:
                break

    run("whole", workers=1)
    run("halves", stop_after=0)
    run("halves")
    whole, halves = (read_weights(FoldFolder(tmp_path / name).final_checkpoint) for name in ("whole", "halves"))
    assert all(torch.equal(weight, halves[name]) for name, weight in whole.items())
    assert {name.split(".")[1] for name in whole} == {"0", "1", "2"}


def predict(networks, image, plan, *, function=predict_planes):
    return function(networks, image, configuration=plan, mirror_axes=(1,), device=CPU)


def test_an_answer_is_the_mean_of_those_of_the_networks_of_all_planes_and_folds():
    plan, image = plan_planes((0, 2)), torch.randn(1, 9, 20, 17, generator=torch.Generator().manual_seed(1))
    folds = [build(plan, seed).eval() for seed in (0, 1)]
    for network in folds:
        network.set_deep_supervision(enabled=False)
    single, answers = plan_planes((0,), planes=1), []
    for network in folds:
        for plane, axis in enumerate((0, 2)):
            seen = image.permute(0, *(1 + place for place in ORDERS[axis]))
            answer = predict(list_planes(network)[plane], seen, single, function=predict_logits)
            answers.append(answer.permute(0, *(1 + place for place in np.argsort(ORDERS[axis]).tolist())))
    expected = sum(answers) / 4
    torch.testing.assert_close(predict(folds, image, plan), expected)
    setting = Setting(configuration=plan, device=CPU, dtype="float32")
    prepared = prepare_networks(folds, setting, choice="eager", workload=ONE_IMAGE)
    assert [type(network) for network in prepared.networks] == [PreparedPlanes] * 2
    torch.testing.assert_close(predict(prepared.networks, image, plan), expected, rtol=1e-4, atol=1e-5)
    assert prepared.networks[0](torch.zeros(1, 1, 16, 16))[0].shape == (1, 2, 16, 16)


def describe(planes=3):
    content = plan_planes().model_dump(mode="json")
    return content | {"network": content["network"] | {"planes": planes}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (describe(planes=2), r"network\.planes must be 1, or 3, the number of plane_axes \(got 2\)"),
        (describe(planes=4), r"network\.planes"),
        (
            describe() | {"network": build_small_network_plan("point_rend", 2).with_planes(3).model_dump(mode="json")},
            r"network\.planes must be 1 for the family point_rend \(got 3\)",
        ),
        (
            build_configuration((8, 8, 8), network={"planes": 1}).model_dump(mode="json")
            | {"network": build_small_network_plan("plain_unet", 3).with_planes(2).model_dump(mode="json")},
            r"network\.planes must be 1, or 1",
        ),
    ],
)
def test_another_number_of_networks_is_refused(content, message):
    with pytest.raises(DocumentError, match=message):
        parse_part(content, ConfigurationPlan, where="plan.json")


def test_plans_with_one_network_are_written_as_by_earlier_versions():
    assert "planes" not in plan_planes(planes=1).model_dump(mode="json")["network"]
    assert plan_planes().model_dump(mode="json")["network"]["planes"] == 3
