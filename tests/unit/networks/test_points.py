"""Points of a map: exact samples, the most uncertain first, and a prediction that answers them."""

import pytest
import torch
from builders.networks import build_small_network_plan
from torch.nn import functional

from autoseg.errors import PlanError
from autoseg.networks import build_network
from autoseg.networks.cost import measure_cost
from autoseg.networks.families.point_rend import SKELETONS, PointRendNetwork
from autoseg.networks.parts.points import measure_uncertainty, sample_linearly
from autoseg.plan import NETWORK_PLANS
from autoseg.plan.network.point_rend import SKELETON_PLANS
from planners.heads import choose_point_rend

each_dimension = pytest.mark.parametrize("dimensions", [2, 3])


def build_point_rend(dimensions: int = 3, name: str = "point_rend", **changes) -> PointRendNetwork:
    plan = build_small_network_plan(name, dimensions).model_copy(update=changes)
    network = build_network(plan, torch.Generator().manual_seed(0))
    assert isinstance(network, PointRendNetwork)
    return network


def draw_image(dimensions: int, count: int = 2):
    return torch.randn((count, 2, *(8,) * dimensions), generator=torch.Generator().manual_seed(1))


@each_dimension
def test_a_linear_ramp_is_sampled_exactly_within_the_outermost_half_voxels(dimensions):
    grid, extents = (8, 6, 4)[-dimensions:], (4, 6, 2)[-dimensions:]
    fine = torch.stack(torch.meshgrid(*(torch.arange(n) + 0.5 for n in grid), indexing="ij"))
    coarse = torch.stack(
        torch.meshgrid(*((torch.arange(m) + 0.5) * n / m for n, m in zip(grid, extents, strict=True)), indexing="ij")
    )
    slopes = torch.tensor([1.5, -2.0, 0.25][:dimensions]).view(-1, *(1,) * dimensions)
    points = torch.arange(fine[0].numel())[None]
    found = sample_linearly((slopes * coarse).sum(dim=0)[None, None], points, grid)[0, 0]
    inside = torch.stack([(f >= c.min()) & (f <= c.max()) for f, c in zip(fine, coarse, strict=True)]).all(dim=0)
    expected = (slopes * fine).sum(dim=0)
    assert inside.sum() > 10
    torch.testing.assert_close(found[inside.flatten()], expected[inside])


@each_dimension
def test_samples_are_those_of_interpolation_and_of_grid_sample(dimensions):
    grid, extents = (8, 6, 10)[-dimensions:], (4, 6, 3)[-dimensions:]
    features = torch.randn((2, 3, *extents), generator=torch.Generator().manual_seed(0))
    whole = functional.interpolate(features, size=grid, mode={2: "bilinear", 3: "trilinear"}[dimensions])
    points = torch.randint(whole[0, 0].numel(), (2, 20), generator=torch.Generator().manual_seed(1))
    found = sample_linearly(features, points, grid)
    gathered = whole.flatten(2).gather(2, points[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(found, gathered, rtol=0, atol=1e-5)
    places = torch.stack(torch.unravel_index(points, grid), dim=-1).float()
    places = ((places + 0.5) / torch.tensor(grid) * 2 - 1).flip(-1).view(2, *(1,) * (dimensions - 1), 20, dimensions)
    sampled = functional.grid_sample(features, places, padding_mode="border", align_corners=False)
    torch.testing.assert_close(found, sampled.flatten(2), rtol=0, atol=1e-5)


def test_uncertain_is_where_two_labels_are_close_or_a_region_is_near_its_limit():
    logits = torch.tensor([[[5.0, 1.0, 0.0], [4.0, -2.0, 0.0], [-9.0, 0.5, 0.0]]])
    assert measure_uncertainty(logits, "softmax").tolist() == [[-1.0, -0.5, 0.0]]
    assert measure_uncertainty(logits, "sigmoid").tolist() == [[-4.0, -0.5, 0.0]]
    many = torch.randn((2, 7, 50), generator=torch.Generator().manual_seed(0))
    first, second = many.topk(2, dim=1).values.unbind(1)
    torch.testing.assert_close(measure_uncertainty(many, "softmax"), second - first)


@each_dimension
@torch.no_grad()
def test_with_a_point_for_every_voxel_the_prediction_is_the_perceptron_applied_densely(dimensions):
    network = build_point_rend(dimensions, prediction_fraction=1.0).eval()
    image = draw_image(dimensions)
    fine, decoded = network.skeleton.compute_levels(image)
    coarse = network.heads[0](decoded[0])
    enlarged = [
        functional.interpolate(values, size=image.shape[2:], mode={2: "bilinear", 3: "trilinear"}[dimensions])
        for values in (decoded[0], coarse)
    ]
    dense = network.points(torch.cat((fine, enlarged[0]), dim=1).flatten(2), enlarged[1].flatten(2))
    torch.testing.assert_close(network(image)[0].flatten(2), dense, rtol=0, atol=1e-5)


@torch.no_grad()
def test_prediction_answers_the_most_uncertain_voxels_and_leaves_the_others():
    network = build_point_rend(2).eval()
    image = draw_image(2)
    _, decoded = network.skeleton.compute_levels(image)
    whole = functional.interpolate(network.heads[0](decoded[0]), size=image.shape[2:], mode="bilinear")
    predicted = network(image)[0]
    changed = (predicted != whole).any(dim=1).flatten(1)
    uncertain = measure_uncertainty(whole.flatten(2), "softmax")
    assert changed.sum(dim=1).tolist() == [16, 16]  # a quarter of 64
    for sample in range(2):
        assert uncertain[sample][changed[sample]].min() >= uncertain[sample][~changed[sample]].max()
    assert torch.equal(network(image)[0], predicted)


@torch.no_grad()
def test_every_level_is_answered_on_the_way_to_the_full_resolution():
    network = build_point_rend(2, "point_rend of the lowest level for regions").eval()
    counts = []
    network.points.register_forward_hook(lambda _, given, answered: counts.append(answered.shape[2]))
    network(draw_image(2))
    assert counts == [4, 16]  # a quarter of 4 x 4 and of 8 x 8 voxels


@torch.no_grad()
def test_training_points_are_the_most_uncertain_candidates_and_the_uniform_ones():
    network = build_point_rend(2)
    image = draw_image(2)
    generator = torch.Generator().manual_seed(2)
    candidates = torch.stack([torch.randperm(64, generator=generator)[:48] for _ in range(2)])
    uniform = torch.randint(64, (2, 4), generator=generator)
    whole, _, answered, points, chosen = network(image, candidates, uniform)
    assert torch.equal(points[:, :12], candidates.gather(1, chosen))
    uncertain = measure_uncertainty(whole.flatten(2), "softmax")
    expected = candidates.gather(1, uncertain.gather(1, candidates).topk(12, dim=1).indices)
    assert torch.equal(points[:, :12].sort().values, expected.sort().values)
    assert torch.equal(points[:, 12:], uniform)
    assert answered.shape == (2, 3, 16)


@pytest.mark.parametrize("family", SKELETONS)
def test_every_skeleton_stops_early_costs_less_and_trains_all_that_is_left(family):
    assert set(SKELETONS) == set(SKELETON_PLANS)
    skeleton = build_small_network_plan(family, 2, features_per_stage=(16, 16, 16))
    plan = choose_point_rend(skeleton)
    published = plan.model_copy(update={"training_fraction": 1 / 256})
    costs = [measure_cost(network, (32, 32), 2) for network in (published, skeleton)]
    assert costs[0].kept_bytes < 0.9 * costs[1].kept_bytes
    network = build_network(plan, torch.Generator().manual_seed(0))
    outputs = network(torch.randn((2, 2, 16, 16), generator=torch.Generator().manual_seed(1)))
    assert outputs[0].shape[2:] == (16, 16)
    sum(output.square().sum() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in network.parameters() if parameter.requires_grad)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_channels_of_a_previous_stage_reach_the_skeleton():
    plan = build_small_network_plan("point_rend", 2).model_copy(update={"input_channels": 5})
    assert build_network(plan)(torch.zeros(2, 5, 8, 8))[0].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coarse_level": 3}, "coarse_level must be at most 2"),
        ({"output_weights": (1.0,) * 3}, "output_weights must hold at most 2"),
        ({"dimensions": 3}, "skeleton.dimensions must be 3"),
    ],
)
def test_heads_that_do_not_fit_are_refused(changes, words):
    content = build_small_network_plan("point_rend", 2).model_dump()
    with pytest.raises(ValueError, match=words):
        NETWORK_PLANS["point_rend"].model_validate(content | changes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("valid convolutions", "without padding"),
        ("fused outputs", "fused at the full resolution"),
        ("shape stream", "shape_stream works at the full resolution"),
        ("nested_u", "has no decoder of levels"),
    ],
)
def test_networks_that_cannot_stop_early_are_refused_by_name(name, words):
    with pytest.raises(PlanError, match=f"head point_rend does not fit the network: .*{words}.*--architecture"):
        choose_point_rend(build_small_network_plan(name, 2))
