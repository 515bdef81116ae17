"""Resolves which models of a run predict: those named by the user, the selected ones, or the only trained one."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.document import read_document
from autoseg.errors import SelectionError, describe_folds, quote_path
from autoseg.inference.ensemble import Ensemble, MemberChoice
from autoseg.inference.folds import find_folds, find_trained_folds
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.networks.weights import hash_weights
from autoseg.plan.document import Plan
from autoseg.postprocessing.rules import FillHoles, Rule
from autoseg.processes.progress import Progress
from autoseg.run_folder import ALL_CASES, RunFolder
from autoseg.workflows.folds.state import KILLED_RESTART, list_killed_restarts
from autoseg.workflows.select.selection_document import Member, Selection, read_selection


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Models that predict and the postprocessing of their label maps.

    Attributes:
        members: Models whose probabilities are averaged.
        rules: Postprocessing, in the order of application.
        selection: Selection that the models come from; None if it is not used.
    """

    members: tuple[MemberChoice, ...]
    rules: tuple[Rule, ...]
    selection: Selection | None

    @property
    def options(self) -> PredictionOptions:
        """The options that were selected, else the usual ones."""
        return DEFAULT_OPTIONS if self.selection is None else self.selection.options


def resolve_models(
    run: RunFolder,
    *,
    configuration: str | None,
    folds: tuple[str, ...] | None,
    postprocessing: bool,
    progress: Progress,
) -> ModelChoice:
    """Returns the selected models, unless the user names a configuration or folds; notes which ones are used, and which
    cannot be.

    Raises:
        SelectionError: A selected model no longer exists.
        DocumentError: selection.json is damaged.
    """
    for name, fold in list_killed_restarts(run):
        progress.note(f"warning: {name}, fold {fold}, is not used: {KILLED_RESTART}")
    selection = read_selection(run)
    named = MemberChoice(configuration=configuration, folds=folds)
    if selection is None:
        return ModelChoice(members=(named,), rules=(), selection=None)
    if configuration is not None or folds is not None:
        progress.note(
            f"{run.selection.name} is not used, as a configuration or fold is named: no postprocessing; "
            f"selected is {describe_selection(selection)}"
        )
        return ModelChoice(members=(named,), rules=(), selection=None)
    _check_trained(run, selection)
    _check_rules(run, selection)
    rules = selection.postprocessing.rules if postprocessing else ()
    progress.note(f"as {run.selection.name} says: {describe_selection(selection)}")
    progress.note(_describe_rules(selection, rules))
    if selection.prediction is not None:
        progress.note(selection.prediction.describe())
    _note_new_folds(run, selection, progress)
    return ModelChoice(
        members=tuple(
            MemberChoice(configuration=member.configuration, folds=member.folds, pruned_depth=member.pruned_depth)
            for member in selection.members
        ),
        rules=rules,
        selection=selection,
    )


def describe_selection(selection: Selection) -> str:
    """Describes the selected models and folds briefly."""
    return " + ".join(f"{member.name} ({describe_folds(member.folds)})" for member in selection.members)


def hash_ensemble(run: RunFolder, ensemble: Ensemble) -> tuple[tuple[str, ...], ...]:
    """Computes the SHA-256 of the weights of each member, in the order of its stages."""
    return tuple(_hash_member(run, member) for member in ensemble.members)


def list_weights(run: RunFolder, plan: Plan, configuration: str, folds: Sequence[str]) -> tuple[str, ...]:
    """Lists the SHA-256 of all weights that predict: those of the folds of every stage, in the order of the stages.

    Raises:
        PredictionError: A fold of a stage is not trained.
    """
    return tuple(
        hash_weights(run.fold(stage, fold).final_checkpoint)
        for stage in plan.list_stages(configuration)
        for fold in find_folds(run, stage, folds)
    )


def check_weights(run: RunFolder, choice: ModelChoice, weights: Sequence[tuple[str, ...]]) -> None:
    """Checks that the weights of selected models have not changed since the selection.

    Raises:
        SelectionError: A model was trained again since.
    """
    if choice.selection is None:
        return
    for member, found in zip(choice.selection.members, weights, strict=True):
        if member.weights_sha256 != found:
            raise SelectionError(_describe_change(run, member, "was trained again"))


def _hash_member(run: RunFolder, member: SegmentationModel) -> tuple[str, ...]:
    return tuple(
        hash_weights(run.fold(stage.configuration, fold).final_checkpoint)
        for stage in member.stages
        for fold in stage.folds
    )


def _check_trained(run: RunFolder, selection: Selection) -> None:
    for member in selection.members:
        missing = set(member.folds) - set(find_trained_folds(run, member.configuration))
        if missing:
            raise SelectionError(_describe_change(run, member, f"lacks {describe_folds(sorted(missing))}"))


def _check_rules(run: RunFolder, selection: Selection) -> None:
    """Checks that the rules are about values that the label maps of this run have."""
    known = set(read_document(run.plan, Plan).labels.file_values)
    for rule in selection.postprocessing.rules:
        values = {*rule.values, *((rule.fill_value,) if isinstance(rule, FillHoles) else ())}
        if not values <= known:
            msg = (
                f"{run.selection}: the rule to {rule.describe()} is about the label values {sorted(values - known)}, "
                f"but {run.plan.name} has {sorted(known)}; choose anew with: autoseg select {quote_path(run.root)}"
            )
            raise SelectionError(msg)


def _describe_change(run: RunFolder, member: Member, change: str) -> str:
    return (
        f"{run.selection} chose {member.configuration} ({describe_folds(member.folds)}), which {change} since; choose "
        f"anew with: autoseg select {quote_path(run.root)}, or predict without it: --configuration "
        f"{member.configuration}"
    )


def _describe_rules(selection: Selection, rules: Sequence[Rule]) -> str:
    if rules:
        return f"postprocessing: {'; '.join(rule.describe() for rule in rules)}"
    if selection.postprocessing.rules:
        return f"no postprocessing, although {len(selection.postprocessing.rules)} rules were accepted"
    return "no postprocessing: none was accepted"


def _note_new_folds(run: RunFolder, selection: Selection, progress: Progress) -> None:
    for member in selection.members:
        trained = set(find_trained_folds(run, member.configuration)) - {ALL_CASES}
        new = sorted(trained - set(member.folds))
        if new:
            progress.note(
                f"{member.configuration}: the selection was made without {describe_folds(new)}, so that is not used; "
                f"choose anew with: autoseg select {quote_path(run.root)}"
            )
