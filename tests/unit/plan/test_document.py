"""Axes of a plan that was edited by hand."""

from typing import Any

import pytest
from builders.plans import build_configuration, build_plan
from pydantic import ValidationError

from autoseg.plan.document import Plan


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("orientation", "RRS", r"one letter of each of R L, A P and S I \(got 'RRS'\)"),
        ("orientation", "x", r"one letter of each of R L, A P and S I \(got 'x'\)"),
        ("axis_permutation", (0, 1, 1), r"must hold 0, 1 and 2 once each \(got \(0, 1, 1\)\)"),
    ],
)
def test_axes_that_do_not_exist_are_refused(field: str, value: Any, message: str) -> None:
    content = build_plan({"3d_fullres": build_configuration((8, 8, 8))}).model_dump(mode="json")
    assert Plan.model_validate(content | {"orientation": "PIL"}).orientation == "PIL"
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate(content | {field: value})
