"""What holds for the plan of every architecture, with every planner."""

import re
from pathlib import Path

import pytest
import torch
from builders.fingerprints import build_fingerprint
from builders.hosts import GPU
from builders.objects import CELLS

from autoseg.cli.choices import find_planner
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.networks import build_network
from autoseg.networks.cost import META, measure_cost
from autoseg.plan import NETWORK_PLANS, NetworkPlan, Plan
from autoseg.workflows.plan.planning import find_network_cost
from planners import ARCHITECTURES, PLANNERS
from planners.step_time import estimate_step_seconds

Shape = tuple[int, int, int]
MACHINE = Machine(accelerator_memory_gb=None)
DATASETS = {
    "isotropic": ((1.0, 1.0, 1.0), (48, 64, 48)),
    "thick slices": ((5.0, 0.8, 0.8), (16, 192, 192)),
    "image": ((1.0, 1.0, 1.0), (1, 256, 320)),
}
SIZES = (  # of MedNeXt and Primus, planned by the same code as the small ones; the largest are planned, too
    *("mednext_b", "mednext_m", "mednext_l", "mednext_s_k5", "mednext_b_k5", "mednext_m_k5", "mednext_v2"),
    *("primus_b", "primus_m"),
)
LARGEST = ("mednext_l_k5", "mednext_v2_wide", "primus_l")
TIMED = (  # one of every family, and one with attention
    *("plain_unet", "residual_encoder_unet", "u_net", "attention_unet", "unet_plus_plus", "fcn_8s", "deeplab_v3_plus"),
    *("hrnet_v1", "seg_res_net", "unext", "primus_s", "ternaus_net", "h_dense_unet", "latent_diffusion"),
    *("diffusion_unet", "mask_rcnn"),
)
BUDGET_SECONDS = 1200.0
PUBLISHED = {
    f"{name} {published.variant}".strip(): published
    for name, architecture in ARCHITECTURES.items()
    for published in architecture.published
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_network_has_the_published_number_of_parameters(name: str) -> None:
    published = PUBLISHED[name]
    with META:
        network = build_network(published.plan)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == pytest.approx(published.parameter_count, rel=0.01)


@pytest.mark.parametrize("name", [name for name, published in PUBLISHED.items() if published.multiply_adds])
def test_the_published_network_has_the_published_number_of_multiply_adds(name: str) -> None:
    published = PUBLISHED[name]
    counted = measure_cost(published.plan, published.extents_voxels, 1)
    assert counted.multiply_adds == pytest.approx(published.multiply_adds, rel=0.01)


@pytest.mark.usefixtures("_unchecked_types")
@pytest.mark.parametrize(
    ("architecture", "dataset"),
    [
        (architecture, dataset)
        for architecture in ARCHITECTURES
        for dataset in DATASETS
        if architecture not in SIZES and (architecture not in LARGEST or dataset == "isotropic")
    ],
)
def test_every_architecture_is_planned_for_every_kind_of_image(architecture: str, dataset: str) -> None:
    spacing_mm, shape = DATASETS[dataset]
    planner = find_planner("default", architecture)
    described = {"labels": CELLS.target_labels, "targets": CELLS} if ARCHITECTURES[architecture].needs_instances else {}
    fingerprint = build_fingerprint(spacing_mm, shape, **described)
    if shape[0] == 1 and ARCHITECTURES[architecture].without_slices is not None:
        with pytest.raises(PlanError, match=r"no network exists for these images: .*; choose another --architecture"):
            planner.plan(fingerprint, MACHINE, measure_cost=find_network_cost)
        return
    planner.check_labels(fingerprint.labels, fingerprint.targets, fingerprint.dataset_name)
    plan = planner.plan(fingerprint, MACHINE, measure_cost=find_network_cost)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert architecture in plan.planner
    assert ("3d_fullres" in plan.configurations) == (shape[0] > 1)


@pytest.mark.parametrize("planner", [name for name, planner in PLANNERS.items() if not planner.measures_throughput])
def test_every_planner_takes_an_architecture(planner: str) -> None:
    spacing_mm, shape = DATASETS["isotropic"]
    fingerprint = build_fingerprint(spacing_mm, shape)
    plan = find_planner(planner, "u_net").plan(fingerprint, MACHINE, measure_cost=find_network_cost)
    assert {configuration.network.family for configuration in plan.configurations.values()} == {"u_shaped"}
    own = PLANNERS[planner].plan(fingerprint, MACHINE)
    assert plan.accelerator_memory_gb == own.accelerator_memory_gb


@pytest.mark.parametrize("shape", [(1, 32, 48), (16, 24, 24)], ids=["2d", "3d"])
@pytest.mark.parametrize("name", TIMED)
def test_the_planner_by_time_fits_the_steps_of_every_family_into_the_budget(name: str, shape: Shape) -> None:
    planner, architecture = find_planner("timed", name), ARCHITECTURES[name]
    described = {"labels": CELLS.target_labels, "targets": CELLS} if architecture.needs_instances else {}
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), shape, **described)
    machine = Machine(accelerator_memory_gb=None, throughput=GPU, budget_seconds=BUDGET_SECONDS)
    if shape[0] == 1 and architecture.without_slices is not None:
        with pytest.raises(PlanError, match=r"no network exists for these images: .*; choose another --architecture"):
            planner.plan(fingerprint, machine, measure_cost=find_network_cost)
        return
    plan = planner.plan(fingerprint, machine, measure_cost=find_network_cost)
    assert plan.planner == f"timed --architecture {name}"
    (part,) = plan.configurations.values()
    assert part.dimensions == (2 if shape[0] == 1 else 3)
    (because,) = (reason.because for reason in plan.reasons if reason.subject == "training")
    iterations = int(re.findall(r"here at most ([\d,]+),", because)[0].replace(",", ""))
    cost = find_network_cost(part.network, part.patch_voxels, part.training.batch_size)
    seconds = iterations * estimate_step_seconds(cost, GPU)
    assert 0.8 * BUDGET_SECONDS < seconds < 1.01 * part.training.budget_seconds < BUDGET_SECONDS


def test_the_planner_by_time_is_tried_with_every_family() -> None:
    topology = ARCHITECTURES["u_net"].topology.compute((1.0, 1.0, 1.0), (64, 64, 64))
    planned = {
        name: row.choose_network(topology, input_channels=1, output_channels=3)[0]
        for name, row in ARCHITECTURES.items()
    }
    assert {planned[name].family for name in TIMED} == {network.family for network in planned.values()}
    for name, network in planned.items():  # small batches of volumes need a normalization of each sample
        layers = getattr(network, "layers", None)
        assert layers is None or layers.normalization == "instance", name


def test_the_own_architecture_of_a_planner_changes_nothing_but_its_name() -> None:
    spacing_mm, shape = DATASETS["thick slices"]
    fingerprint = build_fingerprint(spacing_mm, shape)
    for name, architecture in (("default", "plain_unet"), ("residual-m", "residual_encoder_unet")):
        own = PLANNERS[name].plan(fingerprint, MACHINE)
        given = find_planner(name, architecture).plan(fingerprint, MACHINE)
        assert given.model_copy(update={"planner": own.planner}) == own


def test_a_wrong_architecture_is_refused_with_the_nearest() -> None:
    with pytest.raises(PlanError, match=r"no architecture is called 'u_nett' \(did you mean 'u_net'\?\)"):
        find_planner("default", "u_nett")


def test_kernels_of_an_architecture_keep_to_the_axes_of_the_topology() -> None:
    architecture = ARCHITECTURES["v_net"]
    topology = architecture.topology.compute((5.0, 0.8, 0.8), (16, 192, 192))
    network, _ = architecture.choose_network(topology, input_channels=1, output_channels=2)
    assert topology.kernel_sizes[0] == (1, 3, 3)
    assert network.kernel_sizes[0] == (1, 5, 5)
    assert network.kernel_sizes[-1] == (5, 5, 5)


def test_a_network_has_the_features_of_its_paper_in_the_decoder() -> None:
    features = {
        name: ARCHITECTURES[name].published[0].plan.decoder_features_per_stage for name in ("u_net", "v_net", "u2_net")
    }
    assert features == {
        "u_net": (512, 256, 128, 64),
        "v_net": (256, 128, 64, 32),
        "u2_net": (512, 256, 128, 64, 64),
    }


def test_u2_net_trains_seven_outputs_of_the_full_resolution_and_predicts_one() -> None:
    with torch.device("meta"):
        network = build_network(PUBLISHED["u2_net small"].plan)
        image = torch.empty(1, 3, 64, 64)
        assert [output.shape for output in network(image)] == [(1, 1, 64, 64)] * 7
        assert network.output_weights == pytest.approx((1 / 7,) * 7)
        with network.single_output():
            assert len(network(image)) == 1


PAGE = Path(__file__).resolve().parents[4] / "docs" / "architectures.md"


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")
def test_the_page_lists_every_published_network_with_its_size() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed = {
        (name.strip(" `"), source, size.removesuffix(" (a)").removesuffix(" (b)"))
        for name, _, source, _, size, *_ in (row.strip("|").split(" | ") for row in rows if row.count("|") > 7)
    }
    published = {
        (name, row.source, f"{each.parameter_count:,}") for name, row in ARCHITECTURES.items() for each in row.published
    }
    assert len(published) > 20
    missing = {(name, row.source, "none published") for name, row in ARCHITECTURES.items() if not row.published}
    assert listed == published | missing


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")
def test_the_page_says_which_families_train_one_output() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    listed = {family: row[2] for row in rows if len(row) == 3 for family in re.findall(r"`(\w+)`", row[0])}
    assert listed.pop("family") == "trained outputs"  # the heading
    usual = NetworkPlan.trained_output_count
    single = {name for name, kind in NETWORK_PLANS.items() if kind.trained_output_count is usual}
    assert set(listed) == set(NETWORK_PLANS)
    assert {family for family, count in listed.items() if count == "1"} == single
