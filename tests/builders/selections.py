"""What `autoseg select` writes."""

from autoseg.evaluation.crossvalidation import Statistic
from autoseg.postprocessing.rules import Rule
from autoseg.workflows.select.selection_document import Member, Postprocessing, Selection


def build_selection(members: tuple[Member, ...], rules: tuple[Rule, ...]) -> Selection:
    """Members and rules; nothing in it is measured."""
    nothing = Statistic(count=0, mean=None, std=None, lower=None, upper=None)
    return Selection(
        autoseg_version="0",
        cases=("a",),
        class_names={},
        classes_without_reference=(),
        candidates=(),
        members=members,
        because="",
        postprocessing=Postprocessing(rules=rules, steps=(), before=nothing, after=nothing),
    )
