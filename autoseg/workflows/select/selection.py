"""Selects what a run predicts with: the best configuration or pair, and the postprocessing that improves it.

Everything is decided on out-of-fold predictions: each case is predicted by networks that were not trained on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from autoseg import __version__
from autoseg.dataset.folds import make_folds
from autoseg.document import write_document
from autoseg.errors import SelectionError
from autoseg.evaluation.crossvalidation import FEWEST_CASES, Statistic, Table, compute_statistics
from autoseg.evaluation.gain import compute_column_means, compute_gain, find_scored_classes
from autoseg.evaluation.summary import MetricValues, list_class_keys
from autoseg.inference.options import DEFAULT_OPTIONS
from autoseg.labels import LabelScheme
from autoseg.postprocessing.effects import Counts
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder, check_writable, open_run
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.evaluate.crossvalidation import collect_crossvalidation
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_jobs
from autoseg.workflows.select.held_out import (
    HeldOut,
    complete_validations,
    describe_left_out,
    describe_use,
    find_common_cases,
    find_held_out,
    tabulate_dice,
)
from autoseg.workflows.select.model_choice import list_weights
from autoseg.workflows.select.objects import learn_object_rules
from autoseg.workflows.select.pair_predictions import Pair, PairJob, predict_pairs
from autoseg.workflows.select.postprocessing import LearnedPostprocessing, learn_postprocessing
from autoseg.workflows.select.prediction_choice import PredictionChoice
from autoseg.workflows.select.pruning import LARGEST_DICE_LOSS, PruningJob, find_smallest, predict_pruned
from autoseg.workflows.select.quality import calibrate_quality
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection_document import (
    NAMES_JOINED_BY,
    CandidateScores,
    Member,
    ObjectChoice,
    Postprocessing,
    Selection,
    name_pruned,
)
from autoseg.workflows.select.stored_predictions import VariantJob
from autoseg.workflows.select.variants import choose_prediction


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Entry:
    """A candidate and its predictions.

    Attributes:
        members: One configuration, or two.
        jobs: Predictions and references of all cases.
        dice: Dice of each class, with a row for each case.
        pruned_depth: Depth to which the networks of the only member are pruned; None for whole ones.
    """

    members: tuple[HeldOut, ...]
    jobs: tuple[EvaluationJob, ...]
    dice: Table
    pruned_depth: int | None = None

    @property
    def configurations(self) -> tuple[str, ...]:
        return tuple(member.configuration for member in self.members)

    @property
    def name(self) -> str:
        return name_pruned(NAMES_JOINED_BY.join(self.configurations), self.pruned_depth)


def select_models(run_root: Path, request: SelectionRequest, *, progress: Progress) -> Selection:
    """Compares all candidates, prunes the best one, learns postprocessing for it, and writes selection.json.

    Raises:
        RunError: There is no run, it cannot be written, or a reference is missing.
        SelectionError: There is nothing to compare.
        PlanError: The plan does not have a wanted configuration.
        CasesFailedError: A held-out prediction cannot be read.
    """
    run = open_run(run_root)
    check_writable(run.root)
    if complete_validations(
        run,
        configurations=request.configurations,
        folds=request.folds,
        device=request.device,
        progress=progress,
    ):
        collect_crossvalidation(run_root)  # the scores of these folds have changed
    held_out = find_held_out(run, configurations=request.configurations, folds=request.folds)
    cases = find_common_cases(held_out)
    unused = describe_left_out(run, held_out, configurations=request.configurations, folds=request.folds)
    for line in (*describe_use(held_out, cases), *unused):
        progress.note(line)
    entries = [_open_single(run, entry, cases) for entry in held_out]
    if request.ensembles and len(held_out) > 1:
        job = PairJob(run=run, held_out=held_out, cases=cases, device=request.device)
        predict_pairs(job, progress=progress)
        entries += [_evaluate_pair(job, pair, progress) for pair in job.pairs]
    labels = held_out[0].plan.labels
    is_scored = _find_scored(run, held_out[0], cases, labels)
    unscored = tuple(name for name, scored in zip(labels.class_names, is_scored, strict=True) if not scored)
    if unscored:
        progress.note(f"warning: no reference of these cases has {', '.join(unscored)}: left out of every comparison")
    ranked = _rank(entries, is_scored)
    because = _explain(ranked, is_scored)
    chosen = _prune(run, ranked[0], is_scored, device=request.device, progress=progress)
    if chosen is not ranked[0]:
        because = f"{because}; {_explain_pruning(chosen, ranked[0], is_scored)}"
        ranked.insert(0, chosen)
    prediction, jobs = _choose_prediction(run, ranked, is_scored, request=request, progress=progress)
    blocks = _make_blocks(ranked[0].members[0], cases)
    tells_objects = ranked[0].members[0].plan.instances is not None
    learned = learn_postprocessing(jobs, blocks=blocks, progress=progress, tries_rules=not tells_objects)
    objects = _learn_objects(run, ranked[0], prediction, blocks=blocks, device=request.device, progress=progress)
    selection = Selection(
        autoseg_version=__version__,
        cases=cases,
        class_names=dict(zip(list_class_keys(labels), labels.class_names, strict=True)),
        classes_without_reference=unscored,
        candidates=tuple(_describe_candidate(entry, labels, is_scored) for entry in ranked),
        members=tuple(_describe_member(run, member, ranked[0].pruned_depth) for member in ranked[0].members),
        because=because,
        postprocessing=_describe_postprocessing(learned, is_scored),
        prediction=prediction,
        objects=objects,
        call=request.list_options(),
    )
    calibration = calibrate_quality(
        run,
        ranked[0].members,
        jobs,
        selection,
        blocks=blocks,
        device=request.device,
        progress=progress,
    )
    progress.note(f"quality: {calibration.describe()}")
    write_document(run.selection, selection)
    return selection


def _open_single(run: RunFolder, held_out: HeldOut, cases: Sequence[str]) -> _Entry:
    labels = held_out.plan.labels
    jobs = _list_jobs(run, labels, {case: held_out.find_label_map(run, case) for case in cases})
    dice = tabulate_dice(held_out.read_metrics(run, cases), list_class_keys(labels))
    return _Entry(members=(held_out,), jobs=jobs, dice=dice)


def _evaluate_pair(job: PairJob, pair: Pair, progress: Progress) -> _Entry:
    """Evaluates a pair and writes its summary, like that of a validation."""
    labels = pair[0].plan.labels
    jobs = _list_jobs(job.run, labels, {case: job.find_label_map(pair, case) for case in job.cases})
    folder = job.run.ensemble([member.configuration for member in pair])
    summary = evaluate_jobs(list(jobs), folder=folder, progress=progress)
    metrics = [entry.metrics for entry in summary.metric_per_case]
    return _Entry(members=pair, jobs=jobs, dice=tabulate_dice(metrics, list_class_keys(labels)))


def _prune(
    run: RunFolder, best: _Entry, is_scored: Bool[np.ndarray, " class"], *, device: str, progress: Progress
) -> _Entry:
    """Finds the smallest network that is about as good as the best depth: a pruned one, or `best` itself.

    Pairs are not pruned: nothing is known of the mean of the probabilities of smaller networks.
    """
    cases = tuple(job.case for job in best.jobs)
    job = PruningJob(run=run, member=best.members[0], cases=cases, device=device)
    if len(best.members) > 1 or not job.depths:
        return best
    if len(cases) < FEWEST_CASES:
        progress.note(f"{best.name} is not pruned: too few cases to tell, fewer than {FEWEST_CASES}")
        return best
    predict_pruned(job, progress=progress)
    entries = [*(_evaluate_pruned(job, depth, progress) for depth in job.depths), best]
    for entry in entries:
        progress.note(_describe_depth(job, entry, is_scored))
    return entries[find_smallest([_compute_mean(entry, is_scored) for entry in entries])]


def _evaluate_pruned(job: PruningJob, depth: int, progress: Progress) -> _Entry:
    """Evaluates a depth and writes its summary, like that of a validation."""
    labels = job.member.plan.labels
    jobs = _list_jobs(job.run, labels, {case: job.find_label_map(depth, case) for case in job.cases})
    summary = evaluate_jobs(list(jobs), folder=job.find_folder(depth), progress=progress)
    dice = tabulate_dice([entry.metrics for entry in summary.metric_per_case], list_class_keys(labels))
    return _Entry(members=(job.member,), jobs=jobs, dice=dice, pruned_depth=depth)


def _describe_depth(job: PruningJob, entry: _Entry, is_scored: Bool[np.ndarray, " class"]) -> str:
    cost = job.measure_cost(entry.pruned_depth)
    return (
        f"{entry.name}: mean Dice {_compute_mean(entry, is_scored):.4f}, {cost.parameter_count:,} parameters, "
        f"{cost.multiply_adds / 1e6:,.1f} million multiply-adds per patch"
    )


def _choose_prediction(
    run: RunFolder,
    ranked: Sequence[_Entry],
    is_scored: Bool[np.ndarray, " class"],
    *,
    request: SelectionRequest,
    progress: Progress,
) -> tuple[PredictionChoice | None, tuple[EvaluationJob, ...]]:
    """Chooses the options of prediction; returns them, and the label maps that postprocessing is learned on."""
    best = ranked[0]
    cases = tuple(job.case for job in best.jobs)
    job = VariantJob(run=run, members=best.members, cases=cases, pruned_depth=best.pruned_depth, device=request.device)
    alone = {entry.configurations[0]: entry.dice for entry in ranked if len(entry.members) == 1}
    choice = None
    if request.variants:
        choice = choose_prediction(job, best.dice, alone=alone, is_scored=is_scored, progress=progress)
    if choice is None or choice.options == DEFAULT_OPTIONS:
        return choice, best.jobs
    return choice, job.list_jobs(choice.options)


def _learn_objects(
    run: RunFolder,
    best: _Entry,
    prediction: PredictionChoice | None,
    *,
    blocks: Int64[np.ndarray, " case"],
    device: str,
    progress: Progress,
) -> ObjectChoice | None:
    cases = tuple(job.case for job in best.jobs)
    job = VariantJob(run=run, members=best.members, cases=cases, pruned_depth=best.pruned_depth, device=device)
    options = DEFAULT_OPTIONS if prediction is None else prediction.options
    return learn_object_rules(job, options, blocks=blocks, progress=progress)


def _list_jobs(run: RunFolder, labels: LabelScheme, predictions: Mapping[str, Path]) -> tuple[EvaluationJob, ...]:
    return tuple(
        EvaluationJob(case=case, prediction=path, reference=find_reference(run, case), labels=labels)
        for case, path in predictions.items()
    )


def _find_scored(
    run: RunFolder, held_out: HeldOut, cases: Sequence[str], labels: LabelScheme
) -> Bool[np.ndarray, " class"]:
    """Finds the classes that occur in some reference.

    Raises:
        SelectionError: No reference has any class.
    """
    metrics: Sequence[Mapping[str, MetricValues]] = held_out.read_metrics(run, cases)
    voxels = [[int(entry[key].n_ref or 0) for key in list_class_keys(labels)] for entry in metrics]
    is_scored = find_scored_classes(np.array(voxels, np.int64))
    if not is_scored.any():
        msg = f"none of the {len(cases)} references has any class, so there is nothing to score; use other folds"
        raise SelectionError(msg)
    return is_scored


def _rank(entries: Sequence[_Entry], is_scored: Bool[np.ndarray, " class"]) -> list[_Entry]:
    """Sorts by mean Dice, the highest first; ties keep their order, so that one model comes before two.

    With few cases every single model comes before every pair, which would have to earn its double cost.
    """
    is_pair_last = len(entries[0].dice) < FEWEST_CASES
    return sorted(
        entries, key=lambda entry: (is_pair_last and len(entry.members) > 1, -_compute_mean(entry, is_scored))
    )


def _compute_mean(entry: _Entry, is_scored: Bool[np.ndarray, " class"]) -> float:
    return float(np.mean(compute_column_means(entry.dice[:, is_scored])))


def _make_blocks(held_out: HeldOut, cases: Sequence[str]) -> Int64[np.ndarray, " case"]:
    """Numbers the blocks of cases that are held out in turn: the folds, or up to five parts of a single fold."""
    folds = sorted({held_out.holders[case] for case in cases}, key=int)
    if len(folds) > 1:
        return np.array([folds.index(held_out.holders[case]) for case in cases], np.int64)
    if len(cases) < 2:
        return np.zeros(len(cases), np.int64)
    parts = make_folds(cases)
    blocks = {case: index for index, part in enumerate(parts) for case in part.validation}
    return np.array([blocks[case] for case in cases], np.int64)


def _describe_candidate(entry: _Entry, labels: LabelScheme, is_scored: Bool[np.ndarray, " class"]) -> CandidateScores:
    keys = [key for key, scored in zip(list_class_keys(labels), is_scored, strict=True) if scored]
    classes, foreground = compute_statistics(entry.dice[:, is_scored])
    return CandidateScores(
        configurations=entry.configurations,
        foreground=foreground,
        classes=dict(zip(keys, classes, strict=True)),
        pruned_depth=entry.pruned_depth,
    )


def _describe_member(run: RunFolder, member: HeldOut, pruned_depth: int | None) -> Member:
    return Member(
        configuration=member.configuration,
        folds=member.folds,
        weights_sha256=list_weights(run, member.plan, member.configuration, member.folds),
        pruned_depth=pruned_depth,
    )


def _explain(ranked: Sequence[_Entry], is_scored: Bool[np.ndarray, " class"]) -> str:
    best = ranked[0]
    score = f"mean Dice {_compute_mean(best, is_scored):.4f} over {len(best.dice)} held-out cases"
    if len(ranked) == 1:
        return f"{best.name} is the only candidate: {score}"
    second = ranked[1]
    gain = compute_gain(second.dice[:, is_scored], best.dice[:, is_scored])
    return (
        f"{best.name} has the highest of {_describe_rivals(ranked)}: {score}; the next, {second.name}, has "
        f"{_compute_mean(second, is_scored):.4f}, a difference of {gain.describe()}"
    )


def _explain_pruning(pruned: _Entry, whole: _Entry, is_scored: Bool[np.ndarray, " class"]) -> str:
    return (
        f"depth {pruned.pruned_depth} is the smallest whose mean Dice, {_compute_mean(pruned, is_scored):.4f}, is at "
        f"most {LARGEST_DICE_LOSS} below that of the best (whole: {_compute_mean(whole, is_scored):.4f})"
    )


def _describe_rivals(ranked: Sequence[_Entry]) -> str:
    singles = sum(len(entry.members) == 1 for entry in ranked)
    if len(ranked[0].dice) >= FEWEST_CASES or singles == len(ranked):
        return f"{len(ranked)} candidates"
    return f"{singles} single model{'' if singles == 1 else 's'} (too few cases to tell whether a pair is better)"


def _describe_postprocessing(learned: LearnedPostprocessing, is_scored: Bool[np.ndarray, " class"]) -> Postprocessing:
    return Postprocessing(
        rules=learned.rules,
        steps=learned.steps,
        before=_summarize(learned.before, is_scored),
        after=_summarize(learned.after, is_scored),
    )


def _summarize(counts: Counts, is_scored: Bool[np.ndarray, " class"]) -> Statistic:
    return compute_statistics(counts.compute_dice()[:, is_scored])[1]
