import pytest

from autoseg.document import Part, parse_part
from autoseg.errors import DocumentError
from autoseg.plan import CrossEntropyTerm, DiceTerm
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
        ([], r"losses: must hold at least one loss term, of: dice, cross_entropy, .*, cldice \(got none\)"),
        ([DICE | {"weight": 0}], r"losses: the weights must not all be 0, or nothing would be learnt \(got dice 0\)"),
        ([DICE | {"weight": -1}], r"losses\.0\.weight: .*greater than or equal to 0 \(got -1\)"),
        (
            [DICE | {"name": "dise"}],
            r"losses\.0: 'name' must be one of dice, cross_entropy, .*, cldice \(got 'dise'\) \(did you mean 'dice'",
        ),
        ([DICE, {"name": "dice", "weight": 1}], r"losses\.1\.batch_dice: is missing"),
        ([DICE | {"smoothing": 1}], r"losses\.0\.smoothing: unknown key"),
        ([3], r"losses\.0: must be an object with the key 'name' \(got 3\)"),
    ],
)
def test_losses_that_make_no_sense_are_refused(losses, message):
    with pytest.raises(DocumentError, match=rf"^plan\.json: {message}"):
        parse_part({"losses": losses}, Training, where="plan.json")


def upgrade(training):
    plan = {"schema_version": 1, "configurations": {"2d": {"training": training}}}
    return upgrade_version_1(plan)["configurations"]["2d"]["training"]


def test_the_loss_of_version_1_becomes_two_terms():
    upgraded = upgrade({"loss": "dice_cross_entropy", "batch_dice": True, "cross_entropy_weight": 0.5})
    assert upgraded["losses"] == [DICE, {"name": "cross_entropy", "weight": 0.5}]
    assert upgraded["objective"] == {"name": "segmentation"}
    assert not {"loss", "batch_dice", "dice_weight", "cross_entropy_weight"} & upgraded.keys()
