"""Measures other ways to predict the held-out cases with what was selected, and chooses mirroring and decoding.

Each case is predicted by the networks that held it out: once without mirrored views, which costs an eighth of the
validation in 3D, then with larger steps, which costs less. With mirrored views cases are predicted again only where the
answer is still open. The gain of averaging the folds cannot be measured like this, as all folds but one were trained on
a case.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import numpy as np
from jaxtyping import Bool

from autoseg.errors import CasesFailedError, RunError
from autoseg.evaluation.crossvalidation import FEWEST_CASES, Table, compute_statistics
from autoseg.evaluation.gain import Gain, compute_gain
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.postprocessing.learning import stack_counts
from autoseg.processes.case_pool import Failure, list_problems, run_over_cases
from autoseg.processes.progress import Progress
from autoseg.quality.features import NetworkFeatures
from autoseg.workflows.cases.loop import CaseOutput, complete_cases, predict_preprocessed_cases
from autoseg.workflows.evaluate.evaluation import EvaluationJob, count_evaluation_workers
from autoseg.workflows.plan.preprocessing import check_preprocessed
from autoseg.workflows.select.postprocessing import measure_effects
from autoseg.workflows.select.prediction_choice import USUAL_SCORE, PredictionChoice, ScoreName, Variant
from autoseg.workflows.select.stored_predictions import VariantJob, get_configuration, measure_outputs, write_prediction

LOG_NAME: Final = "variant_predictions.log"
LARGER_STEPS: Final = (0.75, 1.0)
SMALLEST_MIRRORING_GAIN: Final = 0.001
"""Mean Dice that mirrored views must gain to be worth eight times the time: below what another seed changes (guess)."""

Decision = tuple[bool, Gain | None, str]
ScoreObjects = Callable[[PredictionOptions], Table]
"""Predicts the held-out cases with some options, and computes the average precision of each case and class."""


def choose_prediction(
    job: VariantJob,
    usual: Table,
    *,
    alone: Mapping[str, Table],
    is_scored: Bool[np.ndarray, " class"],
    progress: Progress,
    score_objects: ScoreObjects | None = None,
) -> PredictionChoice | None:
    """Measures the variants that are missing and chooses; None, with a note, where nothing can be measured.

    Mirrored views are kept where they gain at least `SMALLEST_MIRRORING_GAIN`. Decoding with the highest expected Dice
    is taken where the whole 95 % interval of its gain is above 0.

    Args:
        job: The selected models and the cases.
        usual: Dice of the predictions that exist: with mirrored views and the most probable labels.
        alone: Dice of each member of a pair by itself, predicted as usual.
        is_scored: Classes that occur in some reference.
        progress: Receives notes and progress.
        score_objects: Scores predicted objects, where these are told apart; then all scores are average precisions.

    Raises:
        CasesFailedError: Some cases could not be predicted or read.
    """
    obstacle = _find_obstacle(job)
    if obstacle is not None:
        progress.note(f"mirroring, steps and decodings are not compared: {obstacle}")
        return None
    measured = _Measurements(
        job=job,
        is_scored=is_scored,
        progress=progress,
        tables={DEFAULT_OPTIONS: usual},
        score_objects=score_objects,
    )
    mirroring, mirroring_gain, mirroring_because = _choose_mirroring(measured)
    is_dice, decoding_gain, decoding_because = _choose_decoding(measured, mirroring=mirroring)
    _measure_larger_steps(measured, mirroring=mirroring)
    choice = PredictionChoice(
        mirroring=mirroring,
        mirroring_gain=mirroring_gain,
        mirroring_because=mirroring_because,
        decoding="dice" if is_dice else "argmax",
        decoding_gain=decoding_gain,
        decoding_because=decoding_because,
        variants=(*measured.list_variants(), *_list_single_members(job, alone, is_scored)),
        score_name=measured.score_name,
    )
    if score_objects is not None and choice.options != DEFAULT_OPTIONS:
        _predict(job, (choice.options,), progress)  # objects were scored without label maps
    return choice


def _find_obstacle(job: VariantJob) -> str | None:
    if len(job.cases) < FEWEST_CASES:
        return f"too few cases to tell, fewer than {FEWEST_CASES}"
    for member in job.members:
        previous = get_configuration(member).previous_configuration
        if previous is not None:
            return f"the stored predictions of {previous}, which {member.configuration} gets, have mirrored views"
    try:
        for member in job.members:
            check_preprocessed(job.run, member.plan, get_configuration(member).data_of, job.cases)
    except RunError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Measurements:
    """Dice of the variants that are measured so far."""

    job: VariantJob
    is_scored: Bool[np.ndarray, " class"]
    progress: Progress
    tables: dict[PredictionOptions, Table] = field(default_factory=dict)
    score_objects: ScoreObjects | None = None

    @property
    def score_name(self) -> ScoreName:
        """Name of the score."""
        return USUAL_SCORE if self.score_objects is None else "AP of objects"

    def measure(self, *variants: PredictionOptions) -> None:
        """Predicts and scores variants that have the same logits, which alone tell where objects are."""
        if self.score_objects is not None:
            self.tables[variants[0]] = self.score_objects(variants[0])
            return
        _predict(self.job, variants, self.progress)
        for options in variants:
            self.tables[options] = _tabulate(self.job.list_jobs(options), self.progress)

    def compute_gain(self, before: PredictionOptions, after: PredictionOptions) -> Gain:
        """Computes the gain of one variant over another, over the classes that are scored."""
        return compute_gain(self.tables[before][:, self.is_scored], self.tables[after][:, self.is_scored])

    def list_variants(self) -> tuple[Variant, ...]:
        """Lists the variants in the order in which they were measured."""
        return tuple(_describe(self.job, options, table[:, self.is_scored]) for options, table in self.tables.items())


def _describe(job: VariantJob, options: PredictionOptions, dice: Table) -> Variant:
    return Variant(
        configurations=job.configurations,
        mirroring=options.mirroring,
        step_fraction=options.step_fraction,
        decoding=options.decoding,
        passes_per_case=job.count_passes(options),
        foreground=compute_statistics(dice)[1],
    )


def _list_single_members(
    job: VariantJob, alone: Mapping[str, Table], is_scored: Bool[np.ndarray, " class"]
) -> tuple[Variant, ...]:
    """Lists each member of a pair by itself, whose predictions are those of its validation."""
    if len(job.members) == 1:
        return ()
    singles = [replace(job, members=(member,)) for member in job.members]
    return tuple(_describe(one, DEFAULT_OPTIONS, alone[one.configurations[0]][:, is_scored]) for one in singles)


def _choose_mirroring(measured: _Measurements) -> Decision:
    if not measured.job.has_views:
        return True, None, "the networks were trained without mirroring, so there are no mirrored views"
    plain = replace(DEFAULT_OPTIONS, mirroring=False)
    measured.measure(plain, replace(plain, decoding="dice"))
    gain = measured.compute_gain(plain, DEFAULT_OPTIONS)
    costs = f"{measured.job.count_passes(DEFAULT_OPTIONS) / measured.job.count_passes(plain):.3g} times the time"
    if gain.mean >= SMALLEST_MIRRORING_GAIN:
        return True, gain, f"mirrored views gain {gain.describe()} in {measured.score_name}, for {costs}"
    return False, gain, f"mirrored views gain {gain.describe()}, less than {SMALLEST_MIRRORING_GAIN}, for {costs}"


def _choose_decoding(measured: _Measurements, *, mirroring: bool) -> Decision:
    """Compares decodings as new images are predicted; with mirrored views only where there is a gain without."""
    if measured.score_objects is not None:
        return False, None, "objects are found from probabilities, whatever the decoding is"
    plain = replace(DEFAULT_OPTIONS, mirroring=not measured.job.has_views)
    dice = replace(plain, decoding="dice")
    if dice not in measured.tables:
        measured.measure(dice)
    gain = measured.compute_gain(plain, dice)
    if plain.mirroring or not mirroring:
        return _judge_decoding(gain, "")
    if gain.lower is None or gain.lower <= 0:
        return _judge_decoding(gain, ", without mirrored views; with them it was not measured")
    chosen = replace(DEFAULT_OPTIONS, decoding="dice")
    measured.measure(chosen)
    return _judge_decoding(measured.compute_gain(DEFAULT_OPTIONS, chosen), "")


def _judge_decoding(gain: Gain, where: str) -> Decision:
    is_better = not where and gain.lower is not None and gain.lower > 0
    rule = "all of it above 0" if is_better else "not all of it above 0"
    return is_better, gain, f"labels of the highest expected Dice gain {gain.describe()}, {rule}{where}"


def _measure_larger_steps(measured: _Measurements, *, mirroring: bool) -> None:
    """Measures larger steps without mirrored views, and the first of them with, if these are worth it."""
    plain = replace(DEFAULT_OPTIONS, mirroring=not measured.job.has_views)
    wanted = [replace(plain, step_fraction=step) for step in LARGER_STEPS]
    if mirroring and not plain.mirroring:
        wanted.append(replace(DEFAULT_OPTIONS, step_fraction=LARGER_STEPS[0]))
    for options in wanted:
        smaller = [other for other in measured.tables if other.mirroring == options.mirroring]
        if measured.job.count_passes(options) < min(map(measured.job.count_passes, smaller)):
            measured.measure(options)


def _tabulate(jobs: Sequence[EvaluationJob], progress: Progress) -> Table:
    """Computes the Dice of every case and class; NaN where it is not defined."""
    outcome = run_over_cases(
        partial(measure_effects, rules=()),
        [(job.case, job) for job in jobs],
        workers=count_evaluation_workers(len(jobs)),
        label="Scoring variant",
        progress=progress,
    )
    if outcome.failures:
        heading = f"{len(outcome.failures)} of {len(jobs)} predictions of a variant cannot be used:"
        raise CasesFailedError(heading, list_problems(outcome.failures))
    return stack_counts([entry.counts for entry in outcome.results]).compute_dice()


def _predict(job: VariantJob, variants: Sequence[PredictionOptions], progress: Progress) -> None:
    """Writes the label maps of variants that differ in their decoding alone, as far as they are missing."""
    waiting = {case: [options for options in variants if job.is_waiting(options, case)] for case in job.cases}
    unfinished = [case for case in job.cases if waiting[case]]
    kept = len(job.cases) - len(unfinished)
    views = "with" if variants[0].mirroring else "without"
    named = f"{views} mirrored views, step {variants[0].step_fraction:g}, decoding {_name_decodings(variants)}"
    progress.note(f"{named}: {len(unfinished)} held-out cases to predict, {kept} are there from earlier")
    events = _predict_waiting(
        job,
        {case: waiting[case] for case in unfinished},
        logits_options=replace(variants[0], decoding=DEFAULT_OPTIONS.decoding),
        progress=progress,
    )
    complete_cases(
        events, progress=progress, label="Predicting variant", total=len(unfinished), log=job.run.logs / LOG_NAME
    )


def _name_decodings(variants: Sequence[PredictionOptions]) -> str:
    return " and ".join(options.decoding for options in variants)


def _predict_waiting(
    job: VariantJob,
    waiting: Mapping[str, Sequence[PredictionOptions]],
    *,
    logits_options: PredictionOptions,
    progress: Progress,
) -> Iterator[Failure | None]:
    """Cases of the same folds follow one another, so that each network is loaded once.

    Features are stored, too, where the options may be chosen, beside the label maps of argmax, as they are those of the
    logits, which any decoding has.
    """
    is_choosable = logits_options.step_fraction == DEFAULT_OPTIONS.step_fraction and logits_options != DEFAULT_OPTIONS

    def restore(case: str, outputs: Sequence[CaseOutput]) -> tuple[list[np.ndarray], Grid, NetworkFeatures | None]:
        ensemble = Ensemble(members=tuple(output.model for output in outputs))
        logits, geometries = [output.logits for output in outputs], [output.geometry for output in outputs]
        label_maps = [
            ensemble.restore_label_map(logits, geometries, decoding=options.decoding) for options in waiting[case]
        ]
        features = measure_outputs(outputs) if is_choosable else None
        return label_maps, outputs[0].geometry.grid, features

    def write(case: str, restored: tuple[list[np.ndarray], Grid, NetworkFeatures | None]) -> None:
        label_maps, grid, features = restored
        if features is not None:
            job.write_features(job.find_folder(logits_options), case, features)
        for options, label_map in zip(waiting[case], label_maps, strict=True):
            write_prediction(job.run, job.find_folder(options), job.members, case, label_map=label_map, grid=grid)

    for models, cases in job.load_models(list(waiting), logits_options):
        yield from predict_preprocessed_cases(
            job.run, models, cases, finish=restore, write=write, progress=progress, options=logits_options
        )
