"""The blocks of voxels that become tokens."""

import pytest

from planners.rules.tokens import compute_token_topology, explain_token_topology


@pytest.mark.parametrize(
    ("spacing_mm", "extents_voxels", "token", "patch"),
    [
        ((1.0, 1.0, 1.0), (48.0, 64.0, 48.0), (8, 8, 8), (48, 64, 48)),
        ((1.0, 1.0, 1.0), (50.5, 64.0, 41.0), (8, 8, 8), (56, 64, 48)),
        ((5.0, 0.8, 0.8), (16.0, 192.0, 192.0), (2, 8, 8), (16, 192, 192)),
        ((1.0, 1.0), (250.0, 320.0), (8, 8), (256, 320)),
        ((1.0, 1.0, 1.0), (5.0, 64.0, 64.0), (2, 8, 8), (6, 64, 64)),
        ((1.0, 1.0, 1.0), (1.0, 64.0, 64.0), (1, 8, 8), (1, 64, 64)),
        ((1.0, 1.0), (1.0, 1.0), (1, 1), (1, 1)),
    ],
    ids=["isotropic", "rounded up", "thick slices", "image", "short axis", "flat", "voxel"],
)
def test_tokens_have_equal_lengths_in_space(spacing_mm, extents_voxels, token, patch) -> None:
    topology = compute_token_topology(spacing_mm, extents_voxels)
    assert topology.divisors == token
    assert topology.patch_voxels == patch
    assert topology.strides[0] == (1,) * len(token)


def test_the_reason_names_the_tokens_and_their_grid() -> None:
    spacing_mm = (5.0, 0.8, 0.8)
    topology = compute_token_topology(spacing_mm, (16.0, 192.0, 192.0))
    because = explain_token_topology(topology, spacing_mm).because
    assert because.startswith("a token stands for 2 x 8 x 8 voxels: 3 doublings")
    assert because.endswith("the patch has 8 x 24 x 24 tokens")
