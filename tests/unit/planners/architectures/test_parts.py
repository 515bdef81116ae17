"""Parts of a network that `autoseg plan --part` replaces by others."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer.main
from builders.fingerprints import build_fingerprint
from builders.hosts import HOST
from builders.labels import build_labels
from builders.threads import use_one_thread

from autoseg.cli.app import app
from autoseg.cli.choices import find_planner
from autoseg.errors import OptionError, PlanError
from autoseg.fingerprint import Machine
from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.networks import build_network
from autoseg.plan import Plan
from autoseg.plan.network import UShapedPlan
from autoseg.plan.network.attentions import ATTENTION_PLANS
from autoseg.plan.network.blocks import BLOCK_PLANS
from autoseg.plan.network.contexts import CONTEXT_PLANS
from autoseg.plan.network.skips import SKIP_PLANS
from autoseg.training.data.batch import Batch
from autoseg.training.step import build_learner, run_training_step
from autoseg.workflows.plan.planning import find_network_cost
from planners import ARCHITECTURES, PARTS, Planner, TimedPlanner, replace_parts
from planners.architectures.parts import TAKEN

CPU = torch.device("cpu")
MACHINE = Machine(accelerator_memory_gb=None, throughput=HOST)
LABELS = build_labels({"organ": (1,)})
CHOSEN = ("skip=attention_gate", "block=csp_rep", "context=aspp+non_local", "attention=se")
PAGE = Path(__file__).resolve().parents[4] / "docs" / "architectures.md"

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def make_plan(planner, shape=(8, 16, 16)):
    return planner.plan(build_fingerprint((1.0, 1.0, 1.0), shape), MACHINE, measure_cost=find_network_cost)


@pytest.mark.parametrize("name", ["default", "timed"])
def test_every_planner_plans_the_parts_that_were_asked_for_and_names_them(name):
    planned = make_plan(find_planner(name, "u_net", parts=CHOSEN))
    options = "--part block=csp_rep --part skip=attention_gate --part context=aspp+non_local --part attention=se"
    assert planned.planner == f"{name} --architecture u_net {options}"
    assert Plan.model_validate_json(planned.model_dump_json()) == planned
    for part in planned.configurations.values():
        network = part.network
        assert isinstance(network, UShapedPlan)
        assert {network.block.name, network.decoder_block.name} == {"csp_rep"}
        assert (network.skip.name, network.attention.name) == ("attention_gate", "se")
        assert [context.name for context in network.contexts] == ["aspp", "non_local"]
        assert "csp_rep, attention_gate, aspp, non_local, se" in network.describe()["parts"]
    if name == "default":
        (reason,) = (reason for reason in planned.reasons if reason.subject == "3d_fullres: parts")
        assert reason.because == "asked for, in place of those of u_net"


def test_patch_and_batch_follow_from_the_memory_of_the_parts():
    big = build_fingerprint((1.0, 1.0, 1.0), (1, 512, 512), count=200)
    batches = [
        find_planner("default", "u_net", parts=parts)
        .plan(big, MACHINE, measure_cost=find_network_cost)
        .configurations["2d"]
        .training.batch_size
        for parts in ((), ("block=recurrent_residual",))
    ]
    assert batches[0] > batches[1]


@pytest.mark.parametrize("shape", [(1, 16, 16), (8, 16, 16)], ids=["2d", "3d"])
def test_a_planned_combination_is_trained_and_predicts(shape):
    (part,) = make_plan(find_planner("timed", "u_net", parts=CHOSEN), shape).configurations.values()
    learner = build_learner(part, LABELS, device=CPU, seed=0)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((2, 1, *part.patch_voxels), generator=generator)
    batch = Batch(image=image, label_map=(image[:, 0] > 0).to(torch.int16))
    losses = [run_training_step(learner, batch) for _ in range(3)]
    assert losses[-1] < losses[0]
    logits = predict_logits(
        learner.network, image[0].reshape(1, *shape), configuration=part, mirror_axes=(), device=CPU
    )
    assert logits.shape == (2, *shape)
    assert logits.isfinite().all()


def test_every_part_of_the_plans_may_be_asked_for():
    assert set(PARTS["block"]) == set(PARTS["decoder_block"]) == set(BLOCK_PLANS)
    assert set(PARTS["skip"]) == set(SKIP_PLANS)
    assert set(PARTS["context"]) == {"none", *CONTEXT_PLANS}
    assert set(PARTS["attention"]) == {"none", *ATTENTION_PLANS}


@pytest.mark.parametrize("origin", ["u_net", "unet_plus_plus", "seg_res_net", "ce_net"])
@torch.no_grad()
def test_every_value_makes_a_network(origin, monkeypatch):
    monkeypatch.setattr(torch.nn.modules.conv._ConvNd, "reset_parameters", lambda _: None)  # on the meta device, slow
    architecture, checked = ARCHITECTURES[origin], 0
    topology = architecture.topology.compute((1.0, 1.0), (16, 24))
    for part in TAKEN[type(architecture.choose_network)]:
        for value in PARTS[part]:
            combined = replace_parts(architecture, {part: value})
            assert combined.name == f"{origin} --part {part}={value}"
            plan, reasons = combined.choose_network(topology, input_channels=2, output_channels=3, width=8)
            assert reasons[-1].value == f"{part} {value}"
            with torch.device("meta"):
                network = build_network(plan)
            logits = network(torch.empty(2, 2, *topology.patch_voxels, device="meta"))[0]
            assert logits.shape == (2, 3, *topology.patch_voxels), value
            checked += 1
    assert checked > 7


def test_the_parts_of_a_row_are_left_as_they_are_where_nothing_is_asked_for():
    assert replace_parts(ARCHITECTURES["u_net"], {}) is ARCHITECTURES["u_net"]
    topology = ARCHITECTURES["v_net"].topology.compute((1.0, 1.0), (32, 48))
    own, same = (
        architecture.choose_network(topology, input_channels=1, output_channels=2)[0]
        for architecture in (
            ARCHITECTURES["v_net"],
            replace_parts(ARCHITECTURES["v_net"], {"block": "residual_stage", "activation": "prelu"}),
        )
    )
    assert own == same


def test_a_network_without_padding_keeps_its_margins_with_other_layers():
    combined = replace_parts(ARCHITECTURES["u_net_valid"], {"normalization": "batch", "upsampling": "transposed_wide"})
    topology = combined.topology.compute((1.0, 1.0), (252, 252))
    network, _ = combined.choose_network(topology, input_channels=1, output_channels=2)
    assert (network.padding, network.layers.normalization) == ("valid", "batch")
    assert topology == ARCHITECTURES["u_net_valid"].topology.compute((1.0, 1.0), (252, 252))


@pytest.mark.parametrize(
    ("architecture", "parts", "problem"),
    [
        ("u_net", ["blok=rep"], r"no part is called 'blok' \(did you mean 'block'\?\); choose one of: block, decoder_"),
        ("u_net", ["block=rp"], r"no block is called 'rp' \(did you mean 'rep'\?\); choose one of: plain, residual, "),
        ("u_net", ["context=aspp+asp"], r"no context is called 'asp' \(did you mean 'aspp'\?\); choose one of: none, "),
        ("u_net", ["context=none+aspp"], r"the context 'none\+aspp' joins 'none' with others; leave it out"),
        ("fcn_8s", ["block=rep"], r"--part block does not fit fcn_8s, which takes none; leave it out, or choose an "),
        ("seg_res_net", ["skip=addition"], r"--part skip does not fit seg_res_net, which takes normalization, activa"),
        ("u_net_valid", ["block=rep"], r"u_net_valid has convolutions without padding, which block 'rep', decoder_blo"),
        ("u_net", ["block"], r"--part needs the form NAME=VALUE, such as block=csp_rep \(got 'block'\)"),
        ("u_net", ["block=rep", "block=rsu"], r"--part block is given twice \(rep, rsu\); leave one out"),
        (None, ["block=rep"], r"--part replaces parts of the networks of an --architecture, and none was chosen; choo"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(architecture, parts, problem):
    with pytest.raises((OptionError, PlanError), match=problem):
        find_planner("default", architecture, parts=parts)


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")
def test_the_examples_of_the_page_plan_the_same_network():
    section = PAGE.read_text(encoding="utf-8").partition("\n## Parts in place of others\n")[2].partition("\n## ")[0]
    command, code = re.findall(r"^```(?:sh|python)\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    name, verb, *arguments = shlex.split(command)
    assert (name, verb) == ("autoseg", "plan")
    given = typer.main.get_command(app).commands["plan"].make_context("plan", arguments).params
    asked = find_planner(given["planner"], given["architecture"], parts=given["part"])
    names: dict[str, Planner | TimedPlanner] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["planner"] == asked
