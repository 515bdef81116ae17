"""Small network plans."""

from collections.abc import Callable
from typing import Any

import pytest
from builders.threads import use_one_thread

from autoseg.plan import NetworkPlan

MakePlan = Callable[..., NetworkPlan]

SPACE = {
    # the last stages are anisotropic: kernels and strides of one along an axis
    2: {"kernel_sizes": ((3, 3), (3, 3), (3, 1)), "strides": ((1, 1), (2, 2), (2, 1))},
    3: {"kernel_sizes": ((1, 3, 3), (3, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 1))},
}


_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture
def make_plan() -> MakePlan:
    """A three-stage plan; keyword arguments replace its fields."""

    def make(architecture: str = "plain_unet", dimensions: int = 3, **changes: Any) -> NetworkPlan:
        is_plain = architecture == "plain_unet"
        fields = {
            "architecture": architecture,
            "dimensions": dimensions,
            "input_channels": 2,
            "output_channels": 3,
            "features_per_stage": (4, 8, 8),
            "blocks_per_stage": (2, 2, 2) if is_plain else (1, 3, 2),
            "convolutions_per_decoder_stage": (2, 2) if is_plain else (1, 1),
            "deep_supervision": True,
            **SPACE[dimensions],
            **changes,
        }
        return NetworkPlan.model_validate(fields)

    return make
