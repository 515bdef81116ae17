"""Selects what a run predicts with: the best configuration or pair, and the postprocessing that improves it.

Everything is decided on out-of-fold predictions: each case is predicted by networks that were not trained on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from autoseg import __version__
from autoseg.dataset.folds import make_folds
from autoseg.document import write_document
from autoseg.errors import SelectionError
from autoseg.evaluation.crossvalidation import FEWEST_CASES, Statistic, Table, compute_statistics
from autoseg.evaluation.gain import LARGEST_DICE_LOSS, find_scored_classes
from autoseg.evaluation.summary import MetricValues, list_class_keys
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.labels import LabelScheme
from autoseg.postprocessing.effects import Counts
from autoseg.processes.progress import Progress
from autoseg.run_folder import RunFolder, check_writable, open_run
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.evaluate.crossvalidation import collect_crossvalidation
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_jobs
from autoseg.workflows.select.candidates import (
    ModelCandidate,
    add_costs,
    describe_stages,
    explain,
    has_stages,
    judge_stages,
    rank,
)
from autoseg.workflows.select.held_out import (
    HeldOut,
    complete_validations,
    describe_left_out,
    describe_use,
    find_common_cases,
    find_held_out,
    tabulate,
)
from autoseg.workflows.select.model_choice import list_weights
from autoseg.workflows.select.objects import learn_object_rules
from autoseg.workflows.select.pair_predictions import Pair, PairJob, predict_pairs
from autoseg.workflows.select.postprocessing import LearnedPostprocessing, learn_postprocessing
from autoseg.workflows.select.prediction_choice import PredictionChoice
from autoseg.workflows.select.pruning import PruningJob, find_smallest, predict_pruned
from autoseg.workflows.select.quality import calibrate_quality
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.select.selection_document import (
    CandidateScores,
    LearnedObjects,
    Member,
    ObjectPrecision,
    Postprocessing,
    Selection,
)
from autoseg.workflows.select.stored_predictions import VariantJob
from autoseg.workflows.select.variants import choose_prediction


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
    labels, targets = held_out[0].plan.labels, held_out[0].plan.instances
    is_scored = _find_scored(run, held_out[0], cases, labels)
    unscored = tuple(name for name, scored in zip(labels.class_names, is_scored, strict=True) if not scored)
    if unscored:
        progress.note(f"warning: no reference of these cases has {', '.join(unscored)}: left out of every comparison")
    if targets is not None:
        entries = _tell_objects(run, entries, device=request.device, progress=progress)
    ranked = _rank(run, entries, is_scored, progress=progress)
    because = explain(ranked, is_scored)
    chosen = _prune(run, ranked[0], is_scored, device=request.device, progress=progress)
    if chosen is not ranked[0]:
        because = f"{because}; {_explain_pruning(chosen, ranked[0], is_scored)}"
        ranked.insert(0, chosen)
    prediction, jobs, objects = _choose_prediction(run, ranked, is_scored, request=request, progress=progress)
    blocks = _make_blocks(ranked[0])
    learned = learn_postprocessing(jobs, blocks=blocks, progress=progress, tries_rules=targets is None)
    selection = Selection(
        autoseg_version=__version__,
        cases=cases,
        class_names=dict(zip(list_class_keys(labels), labels.class_names, strict=True)),
        classes_without_reference=unscored,
        candidates=tuple(_describe_candidate(entry, is_scored) for entry in ranked),
        members=tuple(_describe_member(run, member, ranked[0].pruned_depth) for member in ranked[0].members),
        because=because,
        postprocessing=_describe_postprocessing(learned, is_scored),
        prediction=prediction,
        objects=None if objects is None else objects[0],
        call=request.list_options(),
    )
    calibration = calibrate_quality(
        run,
        ranked[0].members,
        jobs,
        selection,
        blocks=blocks,
        objects=None if objects is None else objects[2],
        device=request.device,
        progress=progress,
    )
    progress.note(f"quality: {calibration.describe()}")
    write_document(run.selection, selection)
    return selection


def _open_single(run: RunFolder, held_out: HeldOut, cases: Sequence[str]) -> ModelCandidate:
    labels = held_out.plan.labels
    jobs = _list_jobs(run, labels, {case: held_out.find_label_map(run, case) for case in cases})
    return _build_candidate((held_out,), jobs, held_out.read_metrics(run, cases))


def _build_candidate(
    members: tuple[HeldOut, ...], jobs: tuple[EvaluationJob, ...], metrics: Sequence[Mapping[str, MetricValues]]
) -> ModelCandidate:
    keys = list_class_keys(members[0].plan.labels)
    dice, nsd = (tabulate(metrics, keys, score) for score in ("Dice", "NSD"))
    return ModelCandidate(members=members, jobs=jobs, dice=dice, nsd=nsd)


def _evaluate_pair(job: PairJob, pair: Pair, progress: Progress) -> ModelCandidate:
    """Evaluates a pair and writes its summary, like that of a validation."""
    labels = pair[0].plan.labels
    jobs = _list_jobs(job.run, labels, {case: job.find_label_map(pair, case) for case in job.cases})
    folder = job.run.ensemble([member.configuration for member in pair])
    summary = evaluate_jobs(list(jobs), folder=folder, progress=progress)
    metrics = [entry.metrics for entry in summary.metric_per_case]
    return _build_candidate(pair, jobs, metrics)


def _prune(
    run: RunFolder, best: ModelCandidate, is_scored: Bool[np.ndarray, " class"], *, device: str, progress: Progress
) -> ModelCandidate:
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
    pruned = [_evaluate_pruned(job, depth, progress) for depth in job.depths]
    if best.objects is not None:
        pruned = [one for depth in pruned for one in _tell_objects(run, [depth], device=device, progress=progress)]
    entries = [*pruned, best]
    for entry in entries:
        progress.note(_describe_depth(job, entry, is_scored))
    return entries[find_smallest([entry.compute_mean(is_scored) for entry in entries])]


def _evaluate_pruned(job: PruningJob, depth: int, progress: Progress) -> ModelCandidate:
    """Evaluates a depth and writes its summary, like that of a validation."""
    labels = job.member.plan.labels
    jobs = _list_jobs(job.run, labels, {case: job.find_label_map(depth, case) for case in job.cases})
    summary = evaluate_jobs(list(jobs), folder=job.find_folder(depth), progress=progress)
    candidate = _build_candidate((job.member,), jobs, [entry.metrics for entry in summary.metric_per_case])
    return replace(candidate, pruned_depth=depth)


def _describe_depth(job: PruningJob, entry: ModelCandidate, is_scored: Bool[np.ndarray, " class"]) -> str:
    cost, mean = job.measure_cost(entry.pruned_depth), entry.compute_mean(is_scored)
    return (
        f"{entry.name}: mean {entry.score_name} {mean:.4f}, {cost.parameter_count:,} parameters, "
        f"{cost.multiply_adds / 1e6:,.1f} million multiply-adds per patch"
    )


def _tell_objects(
    run: RunFolder, candidates: Sequence[ModelCandidate], *, device: str, progress: Progress
) -> list[ModelCandidate]:
    """Learns for every candidate how its objects are found, as these and not their cores and borders are to be good.

    Unpruned candidates share the predictions of their models. Where the objects of one cannot be scored, none are.
    """
    scorer = _ObjectScorer(run=run, candidates=tuple(candidates), device=device, progress=progress)
    found = scorer.learn(DEFAULT_OPTIONS)
    if found is None:
        progress.note("warning: candidates are ranked by the Dice of cores and borders, not by their objects")
        return list(candidates)
    for candidate, (choice, *_) in zip(candidates, found, strict=True):
        progress.note(f"{candidate.name}: {'; '.join(rule.describe() for rule in choice.rules)} ({choice.because})")
    return [replace(candidate, objects=own) for candidate, own in zip(candidates, found, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ObjectScorer:
    """Predicts the held-out cases of candidates of the same depth and learns how their objects are found.

    Attributes:
        kept: Rules and scores of the first candidate, by the options of prediction.
    """

    run: RunFolder
    candidates: tuple[ModelCandidate, ...]
    device: str
    progress: Progress
    kept: dict[PredictionOptions, LearnedObjects] = field(default_factory=dict)

    def learn(self, options: PredictionOptions) -> tuple[LearnedObjects, ...] | None:
        """Learns the rules of all candidates; None if cases are not preprocessed any more."""
        members = {member.configuration: member for one in self.candidates for member in one.members}
        job = VariantJob(
            run=self.run,
            members=tuple(members.values()),
            cases=tuple(job.case for job in self.candidates[0].jobs),
            pruned_depth=self.candidates[0].pruned_depth,
            device=self.device,
        )
        names, blocks = zip(*((one.configurations, _make_blocks(one)) for one in self.candidates), strict=True)
        return learn_object_rules(job, names, options, blocks=blocks, progress=self.progress)

    def score(self, options: PredictionOptions) -> Table:
        """Scores the objects of the first candidate, predicted with some options."""
        found = self.learn(options)
        assert found is not None, "the cases were there before"
        self.kept[options] = found[0]
        return found[0][1]


def _choose_prediction(
    run: RunFolder,
    ranked: Sequence[ModelCandidate],
    is_scored: Bool[np.ndarray, " class"],
    *,
    request: SelectionRequest,
    progress: Progress,
) -> tuple[PredictionChoice | None, tuple[EvaluationJob, ...], LearnedObjects | None]:
    """Chooses the options of prediction; returns them, label maps to learn postprocessing on, and rules of objects."""
    best = ranked[0]
    cases = tuple(job.case for job in best.jobs)
    job = VariantJob(run=run, members=best.members, cases=cases, pruned_depth=best.pruned_depth, device=request.device)
    singles = [entry for entry in ranked if len(entry.members) == 1]
    if best.objects is None:
        choice, alone = None, {entry.configurations[0]: entry.dice for entry in singles}
        if request.variants:
            choice = choose_prediction(job, best.dice, alone=alone, is_scored=is_scored, progress=progress)
        is_usual = choice is None or choice.options == DEFAULT_OPTIONS
        return choice, best.jobs if is_usual or choice is None else job.list_jobs(choice.options), None
    if not request.variants:
        return None, best.jobs, best.objects
    scorer = _ObjectScorer(run=run, candidates=(best,), device=request.device, progress=progress)
    choice = choose_prediction(
        job,
        best.objects[1],
        alone={entry.configurations[0]: entry.objects[1] for entry in singles if entry.objects is not None},
        is_scored=is_scored[: best.objects[1].shape[1]],
        progress=progress,
        score_objects=scorer.score,
    )
    if choice is None or choice.options == DEFAULT_OPTIONS:
        return choice, best.jobs, best.objects
    return choice, job.list_jobs(choice.options), scorer.kept[choice.options]


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


def _rank(
    run: RunFolder, candidates: Sequence[ModelCandidate], is_scored: Bool[np.ndarray, " class"], *, progress: Progress
) -> list[ModelCandidate]:
    """Ranks the candidates, after their stages were judged; says what every one costs, and which stages stay."""
    if not has_stages(candidates):
        return rank(candidates, is_scored)
    judged = judge_stages(add_costs(run, candidates), is_scored)
    for line in describe_stages(judged):
        progress.note(line)
    return rank(judged, is_scored)


def _make_blocks(candidate: ModelCandidate) -> Int64[np.ndarray, " case"]:
    """Numbers the blocks of cases that are held out in turn: the folds, or up to five parts of a single fold."""
    held_out, cases = candidate.members[0], [job.case for job in candidate.jobs]
    folds = sorted({held_out.holders[case] for case in cases}, key=int)
    if len(folds) > 1:
        return np.array([folds.index(held_out.holders[case]) for case in cases], np.int64)
    if len(cases) < 2:
        return np.zeros(len(cases), np.int64)
    parts = make_folds(cases)
    blocks = {case: index for index, part in enumerate(parts) for case in part.validation}
    return np.array([blocks[case] for case in cases], np.int64)


def _describe_candidate(entry: ModelCandidate, is_scored: Bool[np.ndarray, " class"]) -> CandidateScores:
    labels = entry.members[0].plan.labels
    keys = [key for key, scored in zip(list_class_keys(labels), is_scored, strict=True) if scored]
    classes, foreground = compute_statistics(entry.dice[:, is_scored])
    return CandidateScores(
        configurations=entry.configurations,
        foreground=foreground,
        classes=dict(zip(keys, classes, strict=True)),
        pruned_depth=entry.pruned_depth,
        objects=_describe_objects(entry, is_scored),
        image_cost=entry.image_cost,
        stage=entry.verdict,
    )


def _describe_objects(entry: ModelCandidate, is_scored: Bool[np.ndarray, " class"]) -> ObjectPrecision | None:
    if entry.objects is None:
        return None
    choice, precision, _ = entry.objects
    classes, foreground = compute_statistics(precision[:, is_scored[: precision.shape[1]]])
    names = [rule.name for rule, scored in zip(choice.rules, is_scored, strict=False) if scored]
    return ObjectPrecision(foreground=foreground, classes=dict(zip(names, classes, strict=True)))


def _describe_member(run: RunFolder, member: HeldOut, pruned_depth: int | None) -> Member:
    return Member(
        configuration=member.configuration,
        folds=member.folds,
        weights_sha256=list_weights(run, member.plan, member.configuration, member.folds),
        pruned_depth=pruned_depth,
    )


def _explain_pruning(pruned: ModelCandidate, whole: ModelCandidate, is_scored: Bool[np.ndarray, " class"]) -> str:
    mean = pruned.compute_mean(is_scored)
    return (
        f"depth {pruned.pruned_depth} is the smallest whose mean {pruned.score_name}, {mean:.4f}, is at "
        f"most {LARGEST_DICE_LOSS} below that of the best (whole: {whole.compute_mean(is_scored):.4f})"
    )


def _describe_postprocessing(learned: LearnedPostprocessing, is_scored: Bool[np.ndarray, " class"]) -> Postprocessing:
    return Postprocessing(
        rules=learned.rules,
        steps=learned.steps,
        before=_summarize(learned.before, is_scored),
        after=_summarize(learned.after, is_scored),
    )


def _summarize(counts: Counts, is_scored: Bool[np.ndarray, " class"]) -> Statistic:
    return compute_statistics(counts.compute_dice()[:, is_scored])[1]
