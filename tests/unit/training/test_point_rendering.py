"""Points are drawn among the voxels that count, and their answers are trained beside the coarse map."""

import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.threads import use_one_thread

from autoseg.networks.parts.points import measure_uncertainty
from autoseg.plan import ConfigurationPlan
from autoseg.plan.losses import SegmentationObjective
from autoseg.plan.objectives import PointRendObjective
from autoseg.runtime.distributed import BatchPart
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import find_valid_voxels
from autoseg.training.objectives.point_rendering import draw_voxels
from autoseg.training.step import build_learner, run_training_step, run_validation_step

CPU = torch.device("cpu")
LABELS = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)
REGIONS = build_labels({"whole": (1, 2), "one": (1,), "two": (2,)}, region_write_values=(1, 2, 3), ignore_value=3)
OBJECTIVE = PointRendObjective(candidates_per_point=3, uncertain_fraction=0.75, point_weight=1.0)
CHI_SQUARE_LIMIT = 103.4  # of 63 degrees of freedom, exceeded by chance once in 1,000 times

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture
def make_learner(plan_configuration):
    def make(labels=LABELS, dimensions=2, seed=0, **changes):
        network = build_small_network_plan("point_rend", dimensions)
        probabilities = "sigmoid" if labels.has_regions else "softmax"
        plan = plan_configuration(dimensions=dimensions)
        training = plan.training.model_copy(update={"objective": OBJECTIVE.model_copy(update=changes)})
        network = network.model_copy(update={"probabilities": probabilities})
        return build_learner(
            plan.model_copy(update={"network": network, "training": training}), labels, device=CPU, seed=seed
        )

    return make


def draw_batch(dimensions=2, extent=8):
    generator = torch.Generator().manual_seed(1)
    shape = (2, *(extent,) * dimensions)
    label_map = torch.randint(4, shape, generator=generator).to(torch.int16)
    return Batch(image=torch.randn((2, 2, *shape[1:]), generator=generator), label_map=label_map)


def take_step(learner, number=0, batch=None):
    torch.manual_seed(number)  # as the loop does
    learner.train()
    return run_training_step(learner, batch or draw_batch())


def keep_outputs(learner, kept):
    """Calls the network, and keeps the logits, as leaves of the graph."""

    def call(image, *further):
        *logits, points, chosen = (output.detach() for output in learner.call_network(image, *further))
        kept.extend(output.requires_grad_() for output in logits)
        return (*kept, points, chosen)

    return call


def find_chi_square(drawn, voxels):
    counts = torch.bincount(drawn.flatten(), minlength=64)[voxels].double()
    expected = counts.sum() / len(counts)
    return float(((counts - expected).square() / expected).sum())


def test_voxels_are_drawn_uniformly_and_never_ignored_ones():
    label_map = torch.zeros((1, 8, 8), dtype=torch.int16)
    torch.manual_seed(0)
    assert find_chi_square(draw_voxels(label_map, None, 6400), torch.arange(64)) < CHI_SQUARE_LIMIT
    label_map[0, :, ::2] = 3
    drawn = draw_voxels(label_map, find_valid_voxels(label_map, LABELS), 3200)
    allowed = (label_map.flatten() != 3).nonzero()[:, 0]
    assert set(drawn.unique().tolist()) == set(allowed.tolist())
    assert find_chi_square(drawn, allowed) < CHI_SQUARE_LIMIT


def test_parts_of_a_batch_draw_the_voxels_of_the_whole_batch():
    label_map = draw_batch().label_map
    valid = find_valid_voxels(label_map, LABELS)

    def draw(first, count):
        torch.manual_seed(0)
        place = slice(first, first + count)
        return draw_voxels(label_map[place], valid[place], 50, BatchPart(first=first, batch_size=2))

    assert torch.equal(torch.cat((draw(0, 1), draw(1, 1))), draw(0, 2))


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_points_are_the_share_of_the_voxels_and_three_quarters_are_found_among_candidates(make_learner, labels):
    learner, given = make_learner(labels), []

    def call(image, *further):
        given.append(further)
        return learner.call_network(image, *further)

    learner.train()
    batch = draw_batch()
    learner.objective(call, batch)
    candidates, uniform = given[0]
    assert (candidates.shape, uniform.shape) == ((2, 48), (2, 4))  # of 16 points, a quarter of 64 voxels
    ignored = batch.label_map.flatten(1) == 3
    assert not ignored.gather(1, torch.cat((candidates, uniform), dim=1)).any()


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_loss_is_that_of_the_coarse_map_and_the_cross_entropy_of_points(make_learner, labels, dimensions):
    losses = []
    batch = draw_batch(dimensions)
    for weight in (1.0, 3.0):
        learner = make_learner(labels, dimensions, point_weight=weight)
        losses.append(take_step(learner, batch=batch))
    learner = make_learner(labels, dimensions)
    torch.manual_seed(0)
    found = learner.network(batch.image, *learner.objective._draw(batch.label_map))
    *outputs, answered, points, _ = found
    coarse = learner.objective.loss(outputs, batch.label_map, learner.network.output_weights).item()
    wanted = batch.label_map.flatten(1).gather(1, points).long()
    if labels.has_regions:
        masks = torch.stack([wanted > 0, wanted == 1, wanted == 2], dim=1).float()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(answered, masks).item()
    else:
        entropy = torch.nn.functional.cross_entropy(answered, wanted).item()
    assert losses == pytest.approx([coarse + entropy, coarse + 3 * entropy], rel=1e-5)


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_the_dice_of_a_sample_is_that_of_voxels_as_prediction_renders_them(make_learner, labels):
    batch = draw_batch()
    losses = [take_step(make_learner(labels, **change)) for change in ({}, {"sample_dice_weight": 2.0})]
    learner = make_learner(labels)
    torch.manual_seed(0)
    candidates, uniform = learner.objective._draw(batch.label_map)
    whole, *_, answered, points, _ = learner.network(batch.image, candidates, uniform)
    classes = [(1, 2), (1,), (2,)] if labels.has_regions else [(1,), (2,)]
    overlap, both = torch.zeros(len(classes)), torch.zeros(len(classes))
    for sample in range(2):
        found = whole[sample].flatten(1)[:, candidates[sample]].clone()
        uncertainty = measure_uncertainty(found[None], learner.network.plan.probabilities)[0]
        for place in uncertainty.topk(12).indices.tolist():  # three quarters of 16 points
            point = (points[sample, :12] == candidates[sample, place]).nonzero()[0, 0]
            found[:, place] = answered[sample, :, point]
        label_map = batch.label_map[sample].flatten()[candidates[sample]]
        probabilities = found.sigmoid() if labels.has_regions else found.softmax(0)[1:]
        for index, values in enumerate(classes):
            mask = torch.isin(label_map, torch.tensor(values))
            overlap[index] += 2 * (probabilities[index] * mask).sum()
            both[index] += probabilities[index][label_map != 3].sum() + mask.sum()
    assert losses[1] - losses[0] == pytest.approx(-2 * (overlap / both).mean().item(), rel=1e-4)


def test_the_dice_of_a_sample_has_a_gradient_for_points_and_none_for_the_coarse_map(make_learner):
    gradients = []
    for change in ({}, {"sample_dice_weight": 2.0}):
        learner, kept = make_learner(**change), []
        learner.train()
        torch.manual_seed(0)
        learner.objective(keep_outputs(learner, kept), draw_batch())[0].backward()
        whole, _, answered = kept
        gradients.append((whole.grad, answered.grad))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert (gradients[0][1] != gradients[1][1]).float().mean() > 0.6  # three quarters of the points, but ignored voxels


def test_trainings_of_earlier_versions_keep_their_digest():
    content = OBJECTIVE.model_dump(mode="json")
    assert content == {"name": "point_rend", "candidates_per_point": 3, "uncertain_fraction": 0.75, "point_weight": 1.0}
    changed = OBJECTIVE.model_copy(update={"sample_dice_weight": 3.0}).model_dump(mode="json")
    assert PointRendObjective.model_validate(changed).sample_dice_weight == 3


def test_ignored_voxels_have_no_gradient(make_learner):
    learner, batch = make_learner(sample_dice_weight=2.0), draw_batch()
    learner.train()
    kept = []
    batch.label_map[1] = 3
    loss, _ = learner.objective(keep_outputs(learner, kept), batch)
    loss.backward()
    whole, _, answered = kept
    ignored = (batch.label_map == 3)[:, None].expand_as(whole)
    assert not whole.grad[ignored].any()
    assert whole.grad[~ignored].all()
    assert not answered.grad[1].any()  # the whole patch is ignored
    assert answered.grad[0].all()


def test_the_seed_decides_the_points_and_so_the_weights(make_learner):
    first, second, other = make_learner(), make_learner(), make_learner()
    losses = [[take_step(learner, number) for number in range(2)] for learner in (first, second)]
    assert losses[0] == losses[1]
    assert take_step(other, 5) != losses[0][0]
    states = [learner.network.state_dict() for learner in (first, second)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_step_changes_all_weights_and_training_learns(make_learner):
    learner = make_learner()
    before = {name: parameter.detach().clone() for name, parameter in learner.network.named_parameters()}
    learner.set_learning_rate(0.02)
    losses = [take_step(learner, number) for number in range(12)]
    assert losses[-1] < 0.95 * losses[0]
    assert all(not torch.equal(value, before[name]) for name, value in learner.network.named_parameters())


def test_validation_scores_and_compares_the_prediction_and_repeats_itself(make_learner):
    learner = make_learner()
    learner.train(is_training=False)
    outcomes = [run_validation_step(learner, draw_batch()) for _ in range(2)]
    assert outcomes[0].loss == outcomes[1].loss
    with torch.inference_mode():
        outputs = learner.network(draw_batch().image)
        expected = learner.objective.loss(outputs, draw_batch().label_map, learner.network.output_weights).item()
    assert outcomes[0].loss == pytest.approx(expected)
    assert "drawn on the CPU" in learner.objective.find_capture_problem()


@pytest.mark.parametrize(
    ("network", "objective", "words"),
    [
        ("point_rend", SegmentationObjective(), "objective must be 'point_rend'"),
        ("plain_unet", OBJECTIVE, "needs a network of the family point_rend"),
    ],
)
def test_objective_and_network_that_do_not_fit_are_refused(plan_configuration, network, objective, words):
    content = plan_configuration(dimensions=2).model_dump()
    content["network"] = build_small_network_plan(network, 2).model_dump()
    content["training"]["objective"] = objective.model_dump()
    content["patch_voxels"] = (8, 8)
    with pytest.raises(ValueError, match=words):
        ConfigurationPlan.model_validate(content)
