import pytest
from builders.labels import build_labels
from builders.plans import build_configuration, build_plan

from autoseg.document import Part, parse_part
from autoseg.errors import DocumentError
from autoseg.plan import CrossEntropyTerm, DiceTerm, Plan
from autoseg.plan.losses import Losses
from autoseg.plan.upgrades import upgrade_version_1

DICE = {"name": "dice", "weight": 1.0, "batch_dice": True}


class Training(Part):
    losses: Losses


def test_terms_are_told_apart_by_their_name():
    losses = [DICE, {"name": "cross_entropy", "weight": 0.5}]
    plan = parse_part({"losses": losses}, Training, where="plan.json")
    assert plan.losses == (DiceTerm(weight=1.0, batch_dice=True), CrossEntropyTerm(weight=0.5))
    assert plan.model_dump(mode="json") == {"losses": losses}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([], r"losses: must hold at least one loss term, of: dice, cross_entropy, .*, centre_distance \(got none\)"),
        ([DICE | {"weight": 0}], r"losses: the weights must not all be 0, or nothing would be learnt \(got dice 0\)"),
        ([DICE | {"weight": -1}], r"losses\.0\.weight: .*greater than or equal to 0 \(got -1\)"),
        (
            [DICE | {"name": "dise"}],
            r"losses\.0: 'name' must be one of dice, .*, centre_distance \(got 'dise'\) \(did you mean 'dice'",
        ),
        ([DICE, {"name": "dice", "weight": 1}], r"losses\.1\.batch_dice: is missing"),
        ([DICE | {"smoothing": 1}], r"losses\.0\.smoothing: unknown key"),
        ([3], r"losses\.0: must be an object with the key 'name' \(got 3\)"),
    ],
)
def test_losses_that_make_no_sense_are_refused(losses, message):
    with pytest.raises(DocumentError, match=rf"^plan\.json: {message}"):
        parse_part({"losses": losses}, Training, where="plan.json")


BOUNDARY = {"name": "boundary", "weight": 0.0, "final_weight": 0.5}
WEIGHTED = {"name": "weighted_cross_entropy", "weight": 1.0, "background_weights": [0.5], "class_weights": [1.0, 2.0]}
BORDERS = WEIGHTED | {"name": "border_weighted_cross_entropy", "border_weight": 10.0, "border_sigma_mm": 5.0}
CENTRE_LINES = {"name": "cldice", "weight": 1.0, "batch_dice": True, "skeleton_iterations": 3}


def test_a_weight_that_rises_from_0_is_no_weight_of_0():
    (term,) = parse_part({"losses": [BOUNDARY]}, Training, where="plan.json").losses
    assert [term.compute_weight(progress) for progress in (0.0, 0.5, 1.0)] == [0.0, 0.25, 0.5]
    with pytest.raises(DocumentError, match=r"must not all be 0.*got boundary 0"):
        parse_part({"losses": [BOUNDARY | {"final_weight": 0}]}, Training, where="plan.json")


LABELS = {"one": (1,), "two": (2,)}
REGIONS = build_labels({"one": (1, 2), "two": (2,)}, region_write_values=(1, 2))


@pytest.mark.parametrize(
    ("term", "labels", "problem"),
    [
        (CENTRE_LINES, build_labels(LABELS, ignore_value=3), "cldice works only for data without an ignore label"),
        (WEIGHTED, REGIONS, r"weighted_cross_entropy background_weights must have 2 values .*one, two \(got 1\)"),
        (WEIGHTED | {"class_weights": [1.0]}, build_labels(LABELS), r"class_weights must have 2 values .*\(got 1\)"),
        (
            BORDERS,
            REGIONS,
            "border_weighted_cross_entropy works with labels only, not with regions, which may overlap",
        ),
        (
            BORDERS | {"object_classes": [1]},
            build_labels(LABELS),
            r"object_classes must have 2 values, one for each label, or none \(got 1\)",
        ),
    ],
)
def test_a_plan_with_a_term_that_is_impossible_for_its_labels_is_refused_by_name(term, labels, problem):
    network = {"output_channels": labels.output_channel_count}
    usual = build_plan({"2d": build_configuration((16, 16), data_of="2d", network=network)}, labels=labels)
    content = usual.model_dump(mode="json")
    content["configurations"]["2d"]["training"]["losses"] = [DICE, term]
    with pytest.raises(DocumentError, match=rf"^plan\.json: configurations\.2d\.training\.losses: .*{problem}"):
        parse_part(content, Plan, where="plan.json")


def upgrade(training):
    plan = {"schema_version": 1, "configurations": {"2d": {"training": training}}}
    return upgrade_version_1(plan)["configurations"]["2d"]["training"]


def test_the_loss_of_version_1_becomes_two_terms():
    upgraded = upgrade({"loss": "dice_cross_entropy", "batch_dice": True, "cross_entropy_weight": 0.5})
    assert upgraded["losses"] == [DICE, {"name": "cross_entropy", "weight": 0.5}]
    assert upgraded["objective"] == {"name": "segmentation"}
    assert not {"loss", "batch_dice", "dice_weight", "cross_entropy_weight"} & upgraded.keys()
