"""Small network plans of every family."""

from collections.abc import Callable
from typing import Any

import pytest
from builders.threads import use_one_thread

from autoseg.plan import NETWORK_PLANS, NetworkPlan

MakePlan = Callable[..., NetworkPlan]


def describe_unet(dimensions: int) -> dict[str, Any]:
    """Three stages, of which the last are anisotropic: kernels and strides of one along an axis."""
    space: dict[int, dict[str, Any]] = {
        2: {"kernel_sizes": ((3, 3), (3, 3), (3, 1)), "strides": ((1, 1), (2, 2), (2, 1))},
        3: {"kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 1))},
    }
    return {"features_per_stage": (4, 8, 8), "deep_supervision": True, **space[dimensions]}


SMALL_PLANS: dict[str, Callable[[int], dict[str, Any]]] = {
    "plain_unet": lambda dimensions: {
        **describe_unet(dimensions),
        "blocks_per_stage": (2, 2, 2),
        "convolutions_per_decoder_stage": (2, 2),
    },
    "residual_encoder_unet": lambda dimensions: {
        **describe_unet(dimensions),
        "blocks_per_stage": (1, 3, 2),
        "convolutions_per_decoder_stage": (1, 1),
    },
}


_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture
def make_plan() -> MakePlan:
    """A small plan; keyword arguments replace its fields."""

    def make(family: str = "plain_unet", dimensions: int = 3, **changes: Any) -> NetworkPlan:
        fields = {"dimensions": dimensions, "input_channels": 2, "output_channels": 3}
        return NETWORK_PLANS[family].model_validate(fields | SMALL_PLANS[family](dimensions) | changes)

    return make
