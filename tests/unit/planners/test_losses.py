"""Losses that a plan is asked for: their terms, their weights, and their reasons."""

from contextlib import suppress
from math import prod

import pytest
import torch
from builders.fingerprints import build_case, build_fingerprint
from builders.hosts import HOST
from builders.labels import build_labels

from autoseg.cli.choices import find_planner, losses
from autoseg.document import parse_part
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.labels import InstanceTargets
from autoseg.networks.cost import META, measure_module_cost
from autoseg.networks.parts.discriminator import Discriminator
from autoseg.plan import Plan
from autoseg.plan.losses import LOSS_TERMS, list_loss_problems
from autoseg.workflows.plan.planning import find_network_cost
from planners import PLANNERS
from planners.losses import LOSS_RULES
from planners.losses.adversarial import FEATURES, count_discriminator
from planners.rules.topology import compute_topology
from planners.rules.unet import PLAIN_UNET

TOPOLOGY = compute_topology((1.0, 1.0), (32, 64))
SHAPE = (20, 20, 25)  # 10,000 voxels
LABELS = build_labels({"organ": (1,), "lesion": (2,)})
REGIONS = build_labels({"organ": (1, 2), "lesion": (2,)}, region_write_values=(1, 2))


def make_fingerprint(*, counts=(1500, 100), labels=LABELS, spacing_mm=(2.0, 1.0, 1.0), **changes):
    """Four cases, of which the second class fills 1 % and the first 15 %."""
    case = build_case(spacing_mm, SHAPE, voxel_counts=counts)
    return build_fingerprint(spacing_mm, SHAPE, cases=(case,) * 4, labels=labels, **changes)


def plan(loss, fingerprint=None, *, planner="default"):
    machine = Machine(accelerator_memory_gb=None, throughput=HOST)
    return find_planner(planner, loss=loss).plan(
        fingerprint or make_fingerprint(), machine, measure_cost=find_network_cost
    )


def find_terms(loss, fingerprint=None):
    planned = plan(loss, fingerprint)
    return planned.configurations["3d_fullres"].training.losses


def find_reason(planned, subject):
    (because,) = {reason.because for reason in planned.reasons if reason.subject == subject}
    return because


@pytest.mark.parametrize("loss", LOSS_RULES)
def test_every_loss_is_planned_for_every_configuration_with_a_reason(loss):
    usual, planned = plan("dice+cross_entropy"), plan(loss)
    assert planned.planner == f"default --loss {loss}"
    for name, part in planned.configurations.items():
        assert part.training.losses == LOSS_RULES[loss].choose(make_fingerprint(), usual.configurations[name]).value
        own = usual.configurations[name].training
        unchanged = part.training.model_copy(update={"losses": own.losses, "objective": own.objective})
        assert part.model_copy(update={"training": unchanged}) == usual.configurations[name]
        assert len(find_reason(planned, f"{name}: loss")) > 60
        has_batch_dice = any(hasattr(term, "batch_dice") for term in part.training.losses)
        assert has_batch_dice == any(reason.subject == f"{name}: batch Dice" for reason in planned.reasons)
    assert parse_part(planned.model_dump(mode="json"), Plan, where="plan.json") == planned


def test_every_kind_of_term_is_planned_by_some_loss_but_that_of_a_further_output():
    assert {term.name for loss in LOSS_RULES for term in find_terms(loss)} == LOSS_TERMS.keys() - {"centre_distance"}


@pytest.mark.parametrize("planner", PLANNERS)
def test_every_planner_takes_another_loss(planner):
    planned = plan("tversky", planner=planner)
    assert planned.configurations
    assert {term.name for part in planned.configurations.values() for term in part.training.losses} == {"tversky"}


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_usual_loss_is_what_every_planner_chooses_by_itself(planner):
    assert find_planner(planner) is PLANNERS[planner]
    assert find_planner(planner, loss="dice+cross_entropy") is PLANNERS[planner]
    planned = plan("dice+cross_entropy", planner=planner)
    names = {tuple(term.name for term in part.training.losses) for part in planned.configurations.values()}
    assert names == {("dice", "cross_entropy")}
    assert not [reason for reason in planned.reasons if reason.subject.endswith(": loss")]


def test_losses_are_added_up():
    terms = find_terms("tversky+focal+cldice")
    assert [(term.name, term.weight) for term in terms] == [
        ("tversky", 1.0),
        ("focal", 1.0),
        ("dice", 0.5),
        ("cldice", 0.5),
    ]


def test_a_reason_that_losses_share_is_given_once():
    because = find_reason(plan("tversky+focal"), "2d: loss")
    assert "missed voxels weigh 0.7" in because
    assert "the power of 2 of the paper" in because
    assert because.count("foreground classes fill 1 % to 15 %") == 1
    assert because.count("the probabilities that the output layers begin with") == 1


def test_a_shape_prior_adds_latents_of_an_autoencoder_to_the_usual_or_other_terms():
    alone, beside = plan("shape_prior"), plan("tversky+shape_prior")
    for name, part in alone.configurations.items():
        objective = part.training.objective
        assert objective.name == "shape_prior"
        assert objective.shape_prior_weight == 0.1
        assert objective.autoencoder.strides == part.network.strides[: objective.autoencoder.stage_count]
        assert [term.name for term in part.training.losses] == ["dice", "cross_entropy"]
        other = beside.configurations[name].training
        assert [term.name for term in other.losses] == ["tversky"]
        assert other.objective == objective
    assert "label autoencoder, which is trained first" in find_reason(alone, "2d: loss")


def test_a_discriminator_has_the_first_strides_of_the_network_and_adds_to_the_usual_or_other_terms():
    alone, beside = plan("adversarial"), plan("focal+adversarial")
    for name, part in alone.configurations.items():
        objective = part.training.objective
        assert (objective.name, objective.adversarial_weight) == ("adversarial", 0.1)
        assert objective.discriminator_strides == part.network.strides[1 : 1 + len(objective.discriminator_features)]
        assert [term.name for term in part.training.losses] == ["dice", "cross_entropy"]
        other = beside.configurations[name].training
        assert [term.name for term in other.losses] == ["focal"]
        assert other.objective == objective
    assert "discriminator that learns beside the network" in find_reason(alone, "2d: loss")


@pytest.mark.parametrize("planner", ["default", "timed"])
def test_what_a_discriminator_keeps_counts_in_the_memory_of_a_patch(planner):
    case = build_case((1.0, 1.0, 1.0), (160, 200, 200), voxel_counts=(1500, 100))
    large = build_fingerprint((1.0, 1.0, 1.0), (160, 200, 200), cases=(case,) * 40, labels=LABELS)
    usual, planned = (plan(loss, large, planner=planner) for loss in ("dice", "adversarial"))
    pairs = [(usual.configurations[name], part) for name, part in planned.configurations.items()]
    assert all(fewer.training.batch_size <= more.training.batch_size for more, fewer in pairs)
    if planner == "default":
        assert any(
            prod((fewer.training.batch_size, *fewer.patch_voxels))
            < prod((more.training.batch_size, *more.patch_voxels))
            for more, fewer in pairs
        )


def test_the_elements_of_a_discriminator_are_half_the_floats_that_autograd_keeps_of_it():
    network = PLAIN_UNET(TOPOLOGY, input_channels=1, output_channels=3)[0]
    elements = count_discriminator(network, TOPOLOGY)
    assert elements == 3 * (4 * 32 * 64 // 2 + 16 * 16 * 32 + 32 * 8 * 16 + 64 * 4 * 8)
    with META:
        discriminator = Discriminator(4, FEATURES, TOPOLOGY.strides[1:4])
        calls = [measure_module_cost(Once(discriminator), torch.empty(1, 4, 32, 64)).kept_bytes for _ in range(3)]
    assert elements == pytest.approx(sum(calls) / 8, rel=0.05)


class Once(torch.nn.Module):
    """One call of a discriminator, which sees one channel of the image."""

    def __init__(self, discriminator):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, joined):
        return (self.discriminator(joined[:, :1], joined[:, 1:]),)


def test_two_objectives_are_refused():
    with pytest.raises(PlanError, match="names shape_prior and adversarial, of which each is an objective of its own"):
        plan("shape_prior+adversarial")


@pytest.mark.parametrize("architecture", ["latent_diffusion", "diffusion_unet"])
def test_a_discriminator_is_refused_for_networks_with_an_objective_of_their_own(architecture):
    machine = Machine(accelerator_memory_gb=None, throughput=HOST)
    planner = find_planner("default", architecture, loss="adversarial")
    with pytest.raises(PlanError, match=r"the loss 'adversarial' is impossible .*objective must be"):
        planner.plan(make_fingerprint(spacing_mm=(1.0, 1.0, 1.0)), machine, measure_cost=find_network_cost)


@pytest.mark.parametrize("architecture", ["latent_diffusion", "primus_s"])
def test_a_shape_prior_is_refused_for_networks_without_its_strides(architecture):
    machine = Machine(accelerator_memory_gb=None, throughput=HOST)
    planner = find_planner("default", architecture, loss="shape_prior")
    fingerprint = make_fingerprint(spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(PlanError, match=r"the loss 'shape_prior' is impossible for the network"):
        planner.plan(fingerprint, machine, measure_cost=find_network_cost)


@pytest.mark.parametrize("loss", ["adversarial", "shape_prior"])
def test_what_a_detector_cannot_be_trained_by_is_refused_with_advice_that_helps(loss):
    machine = Machine(accelerator_memory_gb=None, throughput=HOST)
    planner = find_planner("default", configurations=["detect_then_segment"], loss=loss)
    fingerprint = make_fingerprint(spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(PlanError, match=rf"the loss '{loss}' .*leave out --configuration detect_then_segment, of"):
        planner.plan(fingerprint, machine, measure_cost=find_network_cost)


def test_the_batch_dice_of_every_configuration_is_kept():
    planned = plan("generalized_dice")
    found = {name: part.training.losses[0].batch_dice for name, part in planned.configurations.items()}
    assert found == {"2d": True, "3d_fullres": False}


def test_weights_are_inverse_to_the_square_root_of_the_share_of_the_voxels():
    (term,) = find_terms("weighted_cross_entropy")
    roots = [0.84**0.5, 0.15**0.5, 0.01**0.5]
    expected = [1 / root / sum(roots) for root in roots]
    assert (*term.background_weights, *term.class_weights) == pytest.approx(expected, abs=1e-4)
    because = find_reason(plan("weighted_cross_entropy"), "2d: loss")
    assert "foreground classes fill 1 % to 15 % of the voxels of the cropped images; weights" in because
    assert "background 0.7772, classes 1.839 to 7.123" in because


def test_balanced_weights_are_the_shares_of_the_other_classes():
    (term,) = find_terms(
        "balanced_cross_entropy", make_fingerprint(counts=(1500,), labels=build_labels({"organ": (1,)}))
    )
    assert (term.background_weights, term.class_weights) == ((0.15,), (0.85,))
    assert term.weight == pytest.approx(1 / (2 * 0.15 * 0.85), abs=1e-4)
    (three,) = find_terms("balanced_cross_entropy")
    assert three.background_weights == pytest.approx((0.08,))
    assert three.class_weights == pytest.approx((0.425, 0.495))


def test_the_weights_of_the_exponential_logarithmic_loss_are_those_of_the_paper():
    (term,) = find_terms("exponential_logarithmic")
    assert term.background_weights == pytest.approx((0.84**-0.5,), abs=1e-4)
    assert term.class_weights == pytest.approx((0.15**-0.5, 0.01**-0.5), abs=1e-4)


def test_regions_have_weights_inside_and_outside():
    fingerprint = make_fingerprint(labels=REGIONS)
    (term,) = find_terms("balanced_cross_entropy", fingerprint)
    assert term.background_weights == pytest.approx((0.15, 0.01))
    assert term.class_weights == pytest.approx((0.85, 0.99))
    assert "regions fill 1 % to 15 %" in find_reason(plan("balanced_cross_entropy", fingerprint), "2d: loss")


def test_a_class_that_nobody_has_has_a_bounded_weight():
    (term,) = find_terms("exponential_logarithmic", make_fingerprint(counts=(1500, 0)))
    assert term.class_weights[1] == pytest.approx(1e-3**-0.5, abs=1e-4)


def test_voxels_are_counted_inside_the_crop():
    whole = make_fingerprint()
    case = whole.cases[0].model_copy(update={"cropped_shape_voxels": (10, 20, 25), "cropped_voxel_counts": (1000, 100)})
    (term,) = find_terms("exponential_logarithmic", whole.model_copy(update={"cases": (case,) * 4}))
    assert term.class_weights == pytest.approx((0.2**-0.5, 0.02**-0.5), abs=1e-4)


def test_ignored_voxels_are_said_to_count_as_background():
    labels = build_labels({"organ": (1,), "lesion": (2,)}, ignore_value=3)
    because = find_reason(plan("weighted_cross_entropy", make_fingerprint(labels=labels)), "2d: loss")
    assert "ignored voxels counted as background" in because


def test_the_border_weight_falls_over_five_of_the_finest_voxels():
    planned = plan("border_weighted_cross_entropy", make_fingerprint(spacing_mm=(3.0, 0.8, 0.8)))
    for part in planned.configurations.values():
        (term,) = part.training.losses
        assert (term.border_weight, term.border_sigma_mm) == (10.0, pytest.approx(4.0))
    assert "sigma of 4 mm" in find_reason(planned, "3d_fullres: loss")


@pytest.mark.parametrize(
    ("loss", "labels", "message"),
    [
        (
            "border_weighted_cross_entropy",
            REGIONS,
            r"'border_weighted_cross_entropy' is impossible for the labels of Dataset001_Invented: "
            r"border_weighted_cross_entropy works with labels only, not with regions.*--loss",
        ),
        (
            "tversky+cldice",
            build_labels({"organ": (1,), "lesion": (2,)}, ignore_value=3),
            r"'tversky\+cldice' is impossible .*: cldice works only for data without an ignore label",
        ),
    ],
)
def test_a_loss_that_is_impossible_for_the_labels_is_refused_by_name(loss, labels, message):
    with pytest.raises(PlanError, match=message):
        plan(loss, make_fingerprint(labels=labels))


@pytest.mark.parametrize("labels", [LABELS, REGIONS, build_labels({"organ": (1,), "lesion": (2,)}, ignore_value=3)])
def test_a_loss_is_refused_for_labels_alone_where_its_terms_are_impossible(labels):
    fingerprint = make_fingerprint(labels=labels)
    configuration = plan("dice+cross_entropy", fingerprint).configurations["2d"]
    refused = [*LOSS_RULES]
    for loss in LOSS_RULES:
        with suppress(PlanError):
            find_planner("default", loss=loss).check_labels(labels, None, "x")
            refused.remove(loss)
    terms = {loss: rule.choose(fingerprint, configuration).value for loss, rule in LOSS_RULES.items()}
    assert refused == [loss for loss, own in terms.items() if list_loss_problems(own, labels)]
    assert len(refused) == (labels is not LABELS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tverski",
            r"no loss is called 'tverski' \(did you mean 'tversky'\?\); choose one, or several joined by \+, of: ",
        ),
        ("dice+crossentropy", r"no loss is called 'crossentropy' \(did you mean 'cross_entropy'\?\)"),
        ("dice+", "no loss is called ''; choose"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest_one(name, message):
    with pytest.raises(PlanError, match=message):
        find_planner("default", loss=name)


def test_the_command_lists_every_loss_with_a_sentence_and_its_source(capsys):
    losses()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(LOSS_RULES)]] == list(LOSS_RULES)
    for line, rule in zip(lines, LOSS_RULES.values(), strict=False):
        assert line.endswith(f"  {rule.description} ({rule.source} {rule.year})")
    assert lines[-1] == "Names joined by + are added up; the default is dice+cross_entropy."


@pytest.mark.parametrize(
    ("has_instances", "objects", "words"),
    [
        (False, "components", "no folder instancesTr numbers the objects"),
        (True, "instances", "background is drawn where two of them touch"),
    ],
)
def test_objects_of_the_border_weights_are_instances_where_the_dataset_has_them(has_instances, objects, words):
    planned = plan("border_weighted_cross_entropy", make_fingerprint(has_instances=has_instances))
    assert {part.training.losses[0].objects for part in planned.configurations.values()} == {objects}
    assert words in find_reason(planned, "2d: loss")


def test_the_shares_that_are_printed_are_those_that_were_counted():
    planned = plan("weighted_cross_entropy", make_fingerprint(counts=(1500, 2)))
    because = find_reason(planned, "2d: loss")
    assert "fill 0.02 % to 15 % of the voxels of the cropped images, where less than 0.1 % counts as that; " in because
    assert "counts as that" not in find_reason(plan("weighted_cross_entropy"), "2d: loss")


def test_a_loss_that_is_named_twice_is_refused():
    with pytest.raises(PlanError, match=r"'dice\+focal\+dice' names dice more than once; .*: dice\+focal, and change"):
        find_planner("default", loss="dice+focal+dice")


@pytest.mark.parametrize("loss", ["tversky", "focal_tversky", "focal"])
def test_outputs_begin_with_the_shares_of_the_classes(loss):
    (term,) = find_terms(loss)
    assert term.initial_probabilities == (0.84, 0.15, 0.01)
    because = find_reason(plan(loss), "2d: loss")
    assert "fill 1 % to 15 % of the voxels of the cropped images, and these are the probabilities that the" in because
    (regions,) = find_terms(loss, make_fingerprint(labels=REGIONS, counts=(10000, 2)))
    assert regions.initial_probabilities == (0.999, 0.001)


def test_border_weights_take_cores_as_objects_where_these_are_told_apart():
    targets = InstanceTargets(labels=build_labels({"cell": (1,)}), border_fraction=0.25)
    fingerprint = make_fingerprint(has_instances=True)
    fingerprint = fingerprint.model_copy(
        update={
            "labels": targets.target_labels,
            "targets": targets,
            "cases": tuple(case.model_copy(update={"voxel_counts": (100, 50)}) for case in fingerprint.cases),
        }
    )
    planned = plan("border_weighted_cross_entropy", fingerprint)
    terms = [part.training.losses[0] for part in planned.configurations.values()]
    assert {(term.objects, term.object_classes) for term in terms} == {("components", (1, 0))}
    assert "cores of objects never touch" in find_reason(planned, "2d: loss")
    content = planned.model_dump()
    content["configurations"]["2d"]["training"]["losses"][0]["objects"] = "instances"
    with pytest.raises(ValueError, match="must tell objects apart by components: cores and borders leave"):
        Plan.model_validate(content)


@pytest.mark.parametrize("loss", ["weighted_cross_entropy", "focal", "tversky"])
def test_a_number_for_each_class_is_refused_where_one_is_seen_at_a_time(loss):
    planner = find_planner("default", loss=loss, configurations=["boundary_refinement"])
    machine = Machine(accelerator_memory_gb=None, throughput=HOST)
    message = r"boundary_refinement sees one class at a time; .*leave out --configuration boundary_refinement"
    with pytest.raises(PlanError, match=message):
        planner.plan(make_fingerprint(), machine, measure_cost=find_network_cost)
