"""What a planner is given beside the fingerprint."""

import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from autoseg.document import read_document
from autoseg.fingerprint import Fingerprint, HostThroughput, Machine
from autoseg.networks.cost import measure_cost
from autoseg.networks.families import FAMILIES
from autoseg.networks.families.plain_unet import PlainUNet
from autoseg.plan import Plan
from autoseg.unet_cost import count_plain_unet
from autoseg.workflows.plan.planning import build_plan_rule, find_network_cost

HOST = HostThroughput(
    cores=2, memory_gb=25.0, number_type="float32", convolution_flops={16: 1e11}, elementwise_rate=1e9
)
MACHINE = Machine(accelerator_memory_gb=8)


@dataclass
class NotingPlanner:
    answer: Plan
    measures_host: bool
    name: str = "noting"
    given: list = field(default_factory=list)

    def plan(self, fingerprint, machine, *, measure_cost=None):
        self.given.append((fingerprint, machine, measure_cost))
        return self.answer


@pytest.mark.parametrize("measures_host", [False, True])
def test_a_planner_gets_what_networks_cost_and_if_it_wants_the_speed_of_the_cpu(run, *, measures_host):
    plan, fingerprint = read_document(run.plan, Plan), Fingerprint.model_construct(dataset_name="a")
    planner = NotingPlanner(answer=plan, measures_host=measures_host)
    assert build_plan_rule(planner, measure=lambda: HOST)(fingerprint, MACHINE) is plan
    machine = MACHINE.model_copy(update={"host": HOST}) if measures_host else MACHINE
    ((_, given_machine, measure),) = planner.given
    assert (given_machine, measure) == (machine, find_network_cost)


@pytest.fixture
def configuration(run):
    return read_document(run.plan, Plan).configurations["3d_lowres"]


def test_an_unknown_family_is_measured_on_its_network(configuration, monkeypatch):
    monkeypatch.setitem(FAMILIES, "dummy", PlainUNet)
    network = configuration.network.model_copy(update={"family": "dummy", "features_per_stage": (4, 8)})
    plain = network.model_copy(update={"family": "plain_unet"})
    assert find_network_cost(network, (8, 8, 8), 2) == measure_cost(plain, (8, 8, 8), 2)


def test_a_family_that_nobody_builds_never_counts_as_another_one(configuration):
    network = configuration.network.model_copy(update={"family": "dummy"})
    with pytest.raises(KeyError, match="dummy"):
        find_network_cost(network, (8, 8, 8), 2)


def test_networks_with_a_closed_form_are_counted_without_torch(configuration):
    assert configuration.network.family == "plain_unet"
    assert find_network_cost(configuration.network, (8, 8, 8), 2) == count_plain_unet(
        configuration.network, (8, 8, 8), 2
    )
    code = "import sys; sys.modules['torch'] = None; import autoseg.unet_cost, autoseg.workflows.plan.planning"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
