"""The two branches of a hybrid network, and how their features are joined."""

import pytest
import torch
from builders.networks import build_small_network_plan
from torch import Tensor, nn

from autoseg.networks import build_network
from autoseg.networks.families.hybrid import HybridNetwork
from autoseg.plan.network import HybridPlan

PRETRAINED = {"path": "/weights.pth", "sha256": "0" * 64, "first_kernels": "mean"}


class Silence(nn.Module):
    """A branch whose features are zero; it keeps what it sees."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        self.seen.append(image)
        return (image.new_zeros(image.shape[0], self.channels, *image.shape[2:]),)


@pytest.mark.parametrize("probabilities", ["softmax", "sigmoid"])
@torch.inference_mode()
def test_without_the_3d_branch_the_output_is_that_of_the_2d_branch_slice_by_slice(probabilities: str) -> None:
    plan = build_small_network_plan("hybrid_2d_3d", 3, probabilities=probabilities)
    network = build_network(plan, torch.Generator().manual_seed(0)).eval()
    assert isinstance(network, HybridNetwork)
    image = torch.randn((2, 2, 5, 8, 8), generator=torch.Generator().manual_seed(1))
    whole = network(image)[0]
    silent = Silence(3)
    network.volumes = silent
    (found,) = network(image)
    assert not torch.allclose(found, whole)
    for index in range(5):
        (features,) = network.slices(image[:, :, index])
        expected = network.head(features[:, :, None])[:, :, 0]
        torch.testing.assert_close(found[:, :, index], expected, rtol=1e-5, atol=1e-5)
    (seen,) = silent.seen
    torch.testing.assert_close(seen[:, :2], image)
    torch.testing.assert_close(seen[:, 2:], found.softmax(dim=1) if probabilities == "softmax" else found.sigmoid())


def test_extents_fit_both_branches_and_channels_those_of_the_plan() -> None:
    plan = build_small_network_plan("hybrid_2d_3d", 3)
    assert isinstance(plan, HybridPlan)
    assert plan.patch_divisors == (1, 2, 2)
    cascade = plan.model_copy(update={"input_channels": 5})
    assert (cascade.slice_branch.input_channels, cascade.volume_branch.input_channels) == (5, 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dimensions": 2}, "dimensions must be 3"),
        ({"slices": {"decoder_features_per_stage": (4,)}}, "must end with the same number"),
        ({"volumes": {"pretrained": PRETRAINED}}, "volumes.pretrained must be null"),
    ],
)
def test_branches_that_do_not_fit_are_refused(changes: dict[str, dict[str, object]], words: str) -> None:
    content = build_small_network_plan("hybrid_2d_3d", 3).model_dump()
    for field, change in changes.items():
        content[field] = content[field] | change if isinstance(change, dict) else change
    with pytest.raises(ValueError, match=words):
        HybridPlan.model_validate(content)
