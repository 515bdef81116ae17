from typing import get_args

from autoseg.networks import ARCHITECTURES
from autoseg.plan import Architecture


def test_every_architecture_that_a_plan_may_name_has_an_encoder() -> None:
    assert set(ARCHITECTURES) == set(get_args(Architecture))
