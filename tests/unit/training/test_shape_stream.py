"""An output for edges is trained beside those of labels, and is used for nothing else."""

from dataclasses import replace

import pytest
import torch
from builders.graphs import TapeGraphs
from builders.labels import build_labels
from builders.networks import build_small_network_plan

from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.plan import NETWORK_PLANS, ConfigurationPlan
from autoseg.runtime.distributed import WHOLE_BATCH
from autoseg.training.data.batch import Batch
from autoseg.training.losses.edges import compute_edge_entropy, find_edges
from autoseg.training.losses.targets import build_target
from autoseg.training.losses.weighted_sum import WeightedLoss
from autoseg.training.monitoring.pseudo_dice import count_overlaps
from autoseg.training.step import build_learner, run_training_step, run_validation_step
from autoseg.training.step_graph import StepGraph

CPU = torch.device("cpu")
LABELS = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)
REGIONS = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
EDGE_WEIGHT = 0.5
each_kind = pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
each_dimension = pytest.mark.parametrize("dimensions", [2, 3])


def make_batch(labels, dimensions):
    generator = torch.Generator().manual_seed(0)
    shape = (2, *(16,) * dimensions)
    label_map = torch.zeros(shape, dtype=torch.int16)
    label_map[:, 4:10], label_map[:, 7:10, 5:9] = 1, 2
    if labels.ignore_label is not None:
        label_map[:, :3] = labels.ignore_label
    return Batch(image=label_map[:, None] + torch.randn((2, 1, *shape[1:]), generator=generator), label_map=label_map)


@pytest.fixture
def make_learner(plan_configuration):
    def make(labels, dimensions, **changes):
        network = build_small_network_plan(
            "shape stream", dimensions, input_channels=1, output_channels=labels.output_channel_count, **changes
        )
        plan = plan_configuration(dimensions=dimensions).model_copy(update={"network": network})
        return build_learner(plan, labels, device=CPU, seed=0), plan

    return make


@each_kind
@each_dimension
def test_the_loss_is_that_of_the_segmentation_and_of_the_edges_with_its_weight(make_learner, labels, dimensions):
    learner, plan = make_learner(labels, dimensions)
    batch = make_batch(labels, dimensions)
    *outputs, edges = learner.network(batch.image)
    assert learner.network.output_weights == pytest.approx((2 / 3, 1 / 3, EDGE_WEIGHT))
    loss = WeightedLoss(terms=plan.training.losses, labels=labels, spacing_mm=plan.spacing_mm)
    segmentation = loss(outputs, batch.label_map, (2 / 3, 1 / 3)).item()
    target = build_target(batch.label_map, labels, spacing_mm=plan.spacing_mm)
    entropy = compute_edge_entropy(edges, target, WHOLE_BATCH).item()
    assert entropy > 0
    found, logits = learner.compute_loss(batch)
    assert found.item() == pytest.approx(segmentation + EDGE_WEIGHT * entropy, rel=1e-5)
    torch.testing.assert_close(logits, outputs[0])


@each_kind
def test_validation_counts_the_segmentation_alone(make_learner, labels):
    learner, _ = make_learner(labels, 2)
    learner.network.eval()
    batch = make_batch(labels, 2)
    outcome = run_validation_step(learner, batch)
    with torch.inference_mode(), learner.network.single_output():
        (only,) = learner.network(batch.image)
    assert torch.equal(outcome.counts.true_positive, count_overlaps(only, batch.label_map, labels).true_positive)
    assert outcome.counts.true_positive.shape == (2,)


def test_the_loss_of_the_edges_reaches_the_stream_and_its_encoder_but_not_the_decoder(make_learner):
    learner, plan = make_learner(LABELS, 2)
    batch = make_batch(LABELS, 2)
    edges = learner.network(batch.image)[-1]
    compute_edge_entropy(
        edges, build_target(batch.label_map, LABELS, spacing_mm=plan.spacing_mm), WHOLE_BATCH
    ).backward()
    reached = {name.partition(".")[0] for name, p in learner.network.named_parameters() if p.grad is not None}
    assert reached == {"shape_stream", "stages"}
    assert learner.network.get_parameter("shape_stream.edges.weight").grad.any()


def make_discs(seed, count=4, size=32):
    generator = torch.Generator().manual_seed(seed)
    places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    centres = size / 4 + size / 2 * torch.rand((count, 2, 1, 1), generator=generator)
    radii = size / 8 * (1 + torch.rand((count, 1, 1), generator=generator))
    label_map = ((places - centres).square().sum(dim=1).sqrt() < radii).to(torch.int16)
    noise = 0.2 * torch.randn((count, 1, size, size), generator=generator)
    return Batch(image=label_map[:, None] + noise, label_map=label_map)


def compute_average_precision(scores, truth):
    """The mean of the precision at every voxel that is found, from the highest score on."""
    hits = truth.flatten()[scores.flatten().argsort(descending=True)].double()
    precision = hits.cumsum(0) / torch.arange(1, hits.numel() + 1)
    return float((precision * hits).sum() / hits.sum())


def test_edges_of_new_images_are_found_after_training(make_learner):
    labels = build_labels({"disc": (1,)})
    learner, plan = make_learner(labels, 2)
    learner.set_learning_rate(0.1)
    for step in range(60):
        run_training_step(learner, make_discs(step))
    new = make_discs(1000)
    edges = find_edges(build_target(new.label_map, labels, spacing_mm=plan.spacing_mm))
    with torch.no_grad():
        found = learner.network(new.image)[-1]
    assert edges.float().mean() < 0.15  # what chance would find
    assert compute_average_precision(found, edges) > 0.6


@each_dimension
def test_edges_are_learnt(make_learner, dimensions):
    learner, plan = make_learner(LABELS, dimensions)
    learner.set_learning_rate(0.05)
    batch = make_batch(LABELS, dimensions)
    target = build_target(batch.label_map, LABELS, spacing_mm=plan.spacing_mm)

    def measure():
        with torch.no_grad():
            return compute_edge_entropy(learner.network(batch.image)[-1], target, WHOLE_BATCH).item()

    before = measure()
    for _ in range(12):
        run_training_step(learner, batch)
    assert measure() < 0.95 * before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape_stream": {"features_per_gate": (4, 4, 4), "edge_weight": 1.0}}, "must hold at most 2 values"),
        ({"padding": "valid", "output_weights": (1.0,)}, "padding must be 'same' with shape_stream"),
    ],
)
def test_streams_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        build_small_network_plan("shape stream", 2, **changes)


@pytest.mark.parametrize("family", sorted(set(NETWORK_PLANS) - {"u_shaped"}))
def test_a_stream_outside_of_u_shaped_networks_is_refused_by_name(family, plan_configuration):
    content = plan_configuration().model_dump(mode="json")
    content["network"] = build_small_network_plan(family, 3).model_dump(mode="json")
    content["network"]["shape_stream"] = {"features_per_gate": [4], "edge_weight": 1.0}
    with pytest.raises(DocumentError, match=r"^plan.json: network.*shape_stream: unknown key"):
        parse_part(content, ConfigurationPlan, where="plan.json")


@each_kind
def test_steps_with_edges_are_replayed_as_they_would_be_run(make_learner, labels):
    (plain, _), (captured, _) = make_learner(labels, 2), make_learner(labels, 2)
    graphs = TapeGraphs()
    captured = replace(captured, graph=StepGraph(backend=graphs, announce=print))
    batch = make_batch(labels, 2)
    for _ in range(5):
        assert run_training_step(captured, batch) == run_training_step(plain, batch)
    assert graphs.calls == ["warm up"] * 2 + ["capture"] + ["replay"] * 3
    assert all(map(torch.equal, captured.parameters, plain.parameters))
