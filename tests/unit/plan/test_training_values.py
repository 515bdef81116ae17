"""What the page about values of a training shows can be read, and is what it says."""

import json
import re
from pathlib import Path

import pytest
from builders.plans import build_configuration, build_training_plan

from autoseg.plan.augmentation import TRANSFORM_PLANS
from autoseg.plan.elastic import ELASTIC_PLANS
from autoseg.plan.training import OPTIMIZER_MOMENTS, SCHEDULE_PLANS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "training-values.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")


def read_blocks():
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)]
    return [part for block in blocks for part in (block if isinstance(block, list) else [block])]


def test_every_example_is_a_transform_or_a_schedule_as_a_plan_writes_it():
    blocks = read_blocks()
    assert [block["name"] for block in blocks] == [
        "deformation",
        "saturation",
        "hue",
        "stain",
        "mirror_pairs",
        "on_plateau",
    ]
    for block in blocks:
        kinds = TRANSFORM_PLANS | SCHEDULE_PLANS
        assert kinds[block["name"]].model_validate(block).model_dump(mode="json") == block


def test_every_choice_stands_on_the_page():
    text = PAGE.read_text("utf-8")
    for name in (*ELASTIC_PLANS, *OPTIMIZER_MOMENTS, "zeros", "mirror", "replicate"):
        assert f"| `{name}`" in text, name
    assert all(f'"name": "{name}"' in text for name in SCHEDULE_PLANS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schedule", {"name": "on_plateau", "factor": 1.0, "patience_epochs": 1, "smallest_improvement": 0.0}),
        ("schedule", {"name": "polynomial"}),
        ("schedule", "polynomial"),
        ("augmentation_end_fraction", 1.1),
        ("optimizer", "nadam"),
    ],
)
def test_other_values_are_refused_with_their_field(field, value):
    with pytest.raises(ValueError, match=field):
        build_training_plan(**{field: value})
    with pytest.raises(ValueError, match="border"):
        build_configuration((16, 16), border="wrap")
