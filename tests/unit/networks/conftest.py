"""Small network plans of every family."""

from collections.abc import Callable
from typing import Any

import pytest
from builders.plans import build_network_plan
from builders.threads import use_one_thread

from autoseg.plan import NetworkPlan

MakePlan = Callable[..., NetworkPlan]


# Three stages, of which the last are anisotropic: kernels and strides of one along an axis.
SPACE: dict[int, dict[str, Any]] = {
    2: {"kernel_sizes": ((3, 3), (3, 3), (3, 1)), "strides": ((1, 1), (2, 2), (2, 1))},
    3: {"kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 1))},
}
COMMON: dict[str, Any] = {"input_channels": 2, "features_per_stage": (4, 8, 8)}
SMALL: dict[str, dict[str, Any]] = {
    "plain_unet": {**COMMON, "blocks_per_stage": (2, 2, 2), "convolutions_per_decoder_stage": (2, 2)},
    "residual_encoder_unet": {**COMMON, "blocks_per_stage": (1, 3, 2), "convolutions_per_decoder_stage": (1, 1)},
}

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture
def make_plan() -> MakePlan:
    """A small plan; keyword arguments replace its fields."""

    def make(family: str = "plain_unet", dimensions: int = 3, **changes: Any) -> NetworkPlan:
        return build_network_plan(dimensions, family=family, **SPACE[dimensions] | SMALL[family] | changes)

    return make
