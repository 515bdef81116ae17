"""Label autoencoders that `autoseg plan --plausibility` adds beside networks."""

import json

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.hosts import HOST
from builders.labels import build_labels

from autoseg.cli.choices import find_planner
from autoseg.document import parse_part
from autoseg.errors import DocumentError, PlanError
from autoseg.fingerprint import Machine
from autoseg.labels import InstanceTargets
from autoseg.plan import Plan
from autoseg.plan.objectives import PlausibilityPlan
from autoseg.workflows.plan.planning import find_network_cost
from planners.plausibility import choose_plausibility
from planners.refinement import add_refinement

SPACING, SHAPE = (2.0, 1.0, 1.0), (48, 56, 64)
LABELS = build_labels({"organ": (1,), "lesion": (2,)})
IGNORING = build_labels({"organ": (1,), "lesion": (2,)}, ignore_value=9)
REQUESTS = {
    "default": {},
    "timed": {"planner": "timed"},
    "residual": {"planner": "residual-m"},
    "no padding": {"architecture": "u_net_valid"},
    "no strides": {"architecture": "primus_s"},
    "denoising": {"architecture": "diffusion_unet"},
    "points": {"head": "point_rend"},
    "discriminator": {"loss": "adversarial"},
    "stages": {"configurations": ["2.5d", "2d_triplanar", "3d_roi", "boundary_refinement"], "size": (200, 400, 400)},
}


def plan(planner="default", architecture=None, *, labels=LABELS, size=SHAPE, plausibility=True, **options):
    targets = options.pop("targets", None)
    cases = (build_case(SPACING, size, voxel_counts=(1500, 100)),) * 4
    fingerprint = build_fingerprint(SPACING, size, cases=cases, labels=labels)
    fingerprint = fingerprint if targets is None else fingerprint.model_copy(update={"targets": targets})
    chosen = find_planner(planner, architecture, plausibility=plausibility, **options)
    machine = Machine(accelerator_memory_gb=None, throughput=HOST)
    return chosen.plan(fingerprint, machine, measure_cost=find_network_cost)


def find_reason(planned, subject):
    (reason,) = (reason for reason in planned.reasons if reason.subject == subject)
    return reason


def without_plausibility(planned):
    """The configurations as they are without it."""
    return {
        name: part.model_copy(update={"training": part.training.model_copy(update={"plausibility": None})})
        for name, part in planned.configurations.items()
    }


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_every_network_gets_an_autoencoder_for_its_patches_and_all_else_stays_as_it_is(request_):
    usual, planned = plan(plausibility=False, **request_), plan(**request_)
    assert planned.planner == f"{usual.planner} --plausibility"
    assert without_plausibility(planned) == usual.configurations
    assert planned.reasons[: len(usual.reasons)] == usual.reasons
    for name, part in planned.configurations.items():
        chosen = part.training.plausibility
        assert isinstance(chosen, PlausibilityPlan)
        assert chosen.autoencoder_iterations == 1000
        assert chosen.autoencoder.input_channels == part.network.output_channels
        reason = find_reason(planned, f"{name}: plausibility")
        assert chosen.autoencoder.describe()["latents"] in reason.value
        assert "a label autoencoder is trained first, from label maps alone" in reason.because
    assert parse_part(planned.model_dump(mode="json"), Plan, where="plan.json") == planned


@pytest.mark.parametrize(
    "request_", [{"architecture": "latent_diffusion"}, {"loss": "shape_prior"}, {"loss": "tversky+shape_prior"}]
)
def test_where_there_is_an_autoencoder_nothing_is_added_and_the_plan_says_so(request_):
    planned = plan(**request_)
    assert planned.configurations == plan(plausibility=False, **request_).configurations
    reason = find_reason(planned, "2d: plausibility")
    assert reason.value == "none is added"
    assert "has a label autoencoder already, which tells the plausibility, too" in reason.because


def test_a_detector_has_none_and_the_stage_behind_it_has_one():
    planned = plan(configurations=["detect_then_segment"])
    assert planned.configurations["3d_detector"].training.plausibility is None
    assert planned.configurations["detect_then_segment"].training.plausibility is not None
    assert "finds boxes, which are no label maps" in find_reason(planned, "3d_detector: plausibility").because


def test_a_network_that_finds_objects_one_by_one_is_refused_by_name():
    targets = InstanceTargets(labels=build_labels({"cell": (1,)}), border_fraction=0.2)
    with pytest.raises(PlanError, match=r"--plausibility is impossible for the network 'mask_rcnn'.*leave out"):
        plan(architecture="mask_rcnn", labels=targets.target_labels, targets=targets)


def test_a_patch_that_cannot_be_halved_has_none():
    part = plan(plausibility=False).configurations["2d"]
    decision = choose_plausibility(part.model_copy(update={"patch_voxels": (31, 33)}))
    assert decision.value is None
    assert "a patch of 31 x 33 voxels cannot be halved" in decision.because
    chosen = choose_plausibility(part.model_copy(update={"patch_voxels": (82, 84)})).value
    assert chosen is not None
    assert chosen.autoencoder.patch_divisors == (2, 2), "82 is halved once, and no further"


def test_ignored_voxels_are_explained_and_data_of_which_most_is_ignored_are_refused():
    planned = plan(labels=IGNORING)
    assert find_reason(planned, "3d_fullres: ignored voxels").value == "nearest label"
    case = build_case(SPACING, SHAPE, voxel_counts=(1500, 100))
    case = case.model_copy(update={"ignored_fraction": 0.9})
    fingerprint = build_fingerprint(SPACING, SHAPE, cases=(case,) * 4, labels=IGNORING)
    with pytest.raises(PlanError, match=r"a label autoencoder learns from whole label maps.*leave out --plausibility"):
        find_planner("default", plausibility=True).plan(fingerprint, Machine(accelerator_memory_gb=None))


def test_a_configuration_that_corrects_another_one_has_its_autoencoder():
    planned = add_refinement(plan(), "2d")
    assert planned.configurations["2d_refine"].training.plausibility is not None
    assert parse_part(planned.model_dump(mode="json"), Plan, where="plan.json") == planned


def test_plans_of_earlier_versions_are_valid_and_mean_the_same():
    usual = plan(plausibility=False)
    content = json.loads(usual.model_dump_json())
    for part in content["configurations"].values():
        assert part["training"].pop("plausibility") is None
    assert parse_part(content, Plan, where="plan.json") == usual


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"output_channels": 5}, "plausibility.autoencoder must have dimensions and channels"),
        ({"strides": ((1, 1), (5, 5))}, r"plausibility.autoencoder.strides must divide patch_voxels"),
    ],
)
def test_an_autoencoder_that_does_not_fit_the_network_is_refused(change, expected):
    content = plan().model_dump(mode="json")
    content["configurations"]["2d"]["training"]["plausibility"]["autoencoder"] |= change
    with pytest.raises(DocumentError, match=expected):
        parse_part(content, Plan, where="plan.json")


@pytest.mark.parametrize("request_", [{"architecture": "latent_diffusion"}, {"loss": "shape_prior"}])
def test_a_second_autoencoder_is_refused(request_):
    content = plan(plausibility=False, **request_).model_dump(mode="json")
    added = plan().configurations["2d"].training.plausibility
    content["configurations"]["2d"]["training"]["plausibility"] = added.model_dump(mode="json")
    with pytest.raises(DocumentError, match="plausibility must be null beside the objective"):
        parse_part(content, Plan, where="plan.json")
