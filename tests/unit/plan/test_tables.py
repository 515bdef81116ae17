"""Every kind of part that a plan can hold has an implementation, and the other way round."""

import pytest

from autoseg.networks.families import FAMILIES
from autoseg.plan.augmentation import TRANSFORM_PLANS
from autoseg.plan.elastic import ELASTIC_PLANS
from autoseg.plan.losses import LOSS_TERMS
from autoseg.plan.network import NETWORK_PLANS
from autoseg.plan.objectives import OBJECTIVE_PLANS
from autoseg.plan.stages import PREVIOUS_STAGE_PLANS
from autoseg.plan.training import OPTIMIZER_MOMENTS, SCHEDULE_PLANS
from autoseg.stages.inputs import PREVIOUS_STAGE_INPUTS
from autoseg.training.augmentation.displacements import FIELDS
from autoseg.training.augmentation.transforms import TRANSFORMS
from autoseg.training.losses import LOSSES
from autoseg.training.objectives import OBJECTIVES
from autoseg.training.optimization.optimizer import OPTIMIZERS
from autoseg.training.optimization.schedule import DECAYS

TABLES = {
    "elastic fields": (ELASTIC_PLANS, FIELDS),
    "families": (NETWORK_PLANS, FAMILIES),
    "losses": (LOSS_TERMS, LOSSES),
    "objectives": (OBJECTIVE_PLANS, OBJECTIVES),
    "transforms": (TRANSFORM_PLANS, TRANSFORMS),
    "optimizers": (OPTIMIZER_MOMENTS, OPTIMIZERS),
    "schedules": (SCHEDULE_PLANS, DECAYS),
    "stage inputs": (PREVIOUS_STAGE_PLANS, PREVIOUS_STAGE_INPUTS),
}


@pytest.mark.parametrize("name", TABLES)
def test_what_a_plan_can_name_is_what_there_is(name: str) -> None:
    plans, implementations = TABLES[name]
    assert plans
    assert plans.keys() == implementations.keys()
