"""Small network plans of every family, and of every part that families are made of."""

from collections.abc import Callable
from typing import Any

import pytest
from builders.networks import COMBINATIONS, SMALL_NETWORKS, build_small_network_plan
from builders.threads import use_one_thread

from autoseg.plan import NetworkPlan

MakePlan = Callable[..., NetworkPlan]

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


@pytest.fixture
def make_plan() -> MakePlan:
    """A small plan; keyword arguments replace its fields."""

    def make(name: str = "plain_unet", dimensions: int = 3, **changes: Any) -> NetworkPlan:
        assert name in SMALL_NETWORKS | COMBINATIONS
        if name == "hybrid_2d_3d" and dimensions == 2:
            pytest.skip("3D only")
        return build_small_network_plan(name, dimensions, **changes)

    return make
