"""What holds for transformers over blocks of voxels."""

import pytest
import torch
from torch.nn import functional

from autoseg.networks import build_network
from autoseg.networks.cost import measure_cost
from autoseg.networks.parts.tokens import attend_without_map
from autoseg.networks.parts.transformer import (
    PositionEmbedding,
    ScaledPath,
    compute_rotations,
    rotate,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("grid", [(5, 6), (3, 4, 5)], ids=str)
def test_products_of_rotated_features_depend_on_the_distance_alone(grid: tuple[int, ...]) -> None:
    features = 14  # of which two are left over in three dimensions
    query, key = torch.randn(2, 1, 1, 1, features, dtype=torch.float64)
    rotations = compute_rotations(grid, features, CPU).double()
    tokens = rotations.shape[1]
    rotated = [rotate(part.expand(1, 1, tokens, features), rotations) for part in (query, key)]
    products = (rotated[0] @ rotated[1].transpose(-1, -2)).reshape(*grid, *grid)
    shifted = tuple(slice(1, None) for _ in grid), tuple(slice(None, -1) for _ in grid)
    torch.testing.assert_close(
        products[shifted[0] + shifted[0]], products[shifted[1] + shifted[1]], rtol=1e-5, atol=1e-5
    )
    assert products.reshape(tokens, tokens)[0].unique().numel() > 1


def test_rotations_keep_lengths_and_the_first_position_as_it_is() -> None:
    features = torch.randn(1, 2, 12, 12)
    rotated = rotate(features, compute_rotations((3, 4), 12, CPU))
    assert torch.equal(rotated[:, :, 0], features[:, :, 0])
    torch.testing.assert_close(rotated.norm(dim=-1), features.norm(dim=-1))


def test_attention_is_the_mean_of_values_weighted_by_the_softmax_of_scaled_products() -> None:
    query, key, value = torch.randn(3, 2, 2, 5, 4)
    weights = torch.softmax(query @ key.transpose(-1, -2) / 2, dim=-1)
    torch.testing.assert_close(attend_without_map(query, key, value), weights @ value)


def test_the_memory_of_attention_grows_with_the_tokens_and_not_with_their_pairs(make_plan) -> None:
    plan = make_plan("plain_transformer")
    small, large = (measure_cost(plan, (edge, edge, edge), 1) for edge in (16, 32))
    assert large.kept_bytes == pytest.approx(8 * small.kept_bytes, rel=0.05)
    assert large.multiply_adds > 8 * small.multiply_adds  # which do grow with the pairs


def test_positions_are_added_and_interpolated_for_other_grids() -> None:
    positions = PositionEmbedding(2, (2, 3))
    torch.nn.init.normal_(positions.weight)
    assert torch.equal(positions(torch.zeros(1, 2, 2, 3)), positions.weight)
    expected = functional.interpolate(positions.weight, size=(4, 6), mode="bilinear", align_corners=False)
    assert torch.equal(positions(torch.zeros(1, 2, 4, 6)), expected)


def test_samples_of_a_path_are_dropped_in_training_alone_and_the_mean_is_kept() -> None:
    path = ScaledPath(3, scale=0.5, drop_probability=0.25)
    ones = torch.ones(4000, 2, 3)
    torch.manual_seed(0)
    dropped = path.train()(ones).detach()
    assert dropped.unique().tolist() == pytest.approx([0, 0.5 / 0.75])
    assert (dropped.amax(dim=(1, 2)) == dropped.amin(dim=(1, 2))).all()
    assert float(dropped.mean()) == pytest.approx(0.5, rel=0.03)
    assert (path.eval()(ones) == 0.5).all()


def test_blocks_start_small_with_smaller_outputs_the_deeper_they_are(make_plan) -> None:
    network = build_network(make_plan("plain_transformer", features=140), torch.Generator().manual_seed(0))
    first, second = (block.attention.output.weight.detach().std() for block in network.blocks)
    assert float(first) == pytest.approx(0.02 / 2**0.5, rel=0.05)
    assert float(second) == pytest.approx(0.02 / 2, rel=0.05)
    assert all((block.perceptron_path.weight == 0.1).all() for block in network.blocks)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"heads": 4}, "features must be an even multiple of the 4 heads, at least 6 for each"),
        ({"heads": 7}, "features must be an even multiple of the 7 heads, at least 6 for each"),
        ({"decoder_features": (8, 8)}, "decoder_features must describe 1 steps"),
        ({"position_grid": (2, 2)}, "token_steps and position_grid must have 3 values each"),
    ],
    ids=["odd", "few", "decoder", "dimensions"],
)
def test_a_plan_that_cannot_be_built_is_refused(make_plan, changes: dict, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make_plan("plain_transformer", **changes)
