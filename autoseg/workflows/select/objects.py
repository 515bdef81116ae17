"""Learns from held-out cases how the objects of an image are found: the threshold of seeds and the smallest object.

Every held-out case is predicted once more, by the networks that held it out, as probabilities are not stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int16, Int32, Int64, Integer

from autoseg.errors import RunError
from autoseg.evaluation.crossvalidation import Table
from autoseg.evaluation.gain import Gain, compute_gain
from autoseg.evaluation.instances import Matches, ObjectScores, match_objects, score_objects
from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.options import DEFAULT_OPTIONS, PredictionOptions
from autoseg.labels import InstanceTargets
from autoseg.postprocessing.application import compute_voxel_mm3, is_large_enough
from autoseg.postprocessing.instances import (
    USUAL_THRESHOLD,
    CoreMaps,
    ObjectRule,
    build_core_maps,
    build_usual_rules,
    grow_by_rule,
    number_reference,
    number_scored_components,
)
from autoseg.postprocessing.rules import SizeUnit, find_size_unit
from autoseg.processes.progress import Progress
from autoseg.quality.objects import ScoredObjects, measure_objects
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map
from autoseg.workflows.cases.loop import CaseOutput, complete_cases, predict_preprocessed_cases
from autoseg.workflows.cases.references import find_reference, find_reference_objects
from autoseg.workflows.plan.preprocessing import check_preprocessed
from autoseg.workflows.select.selection_document import LearnedObjects, ObjectChoice
from autoseg.workflows.select.stored_predictions import VariantJob, get_configuration

LOG_NAME: Final = "object_predictions.log"
THRESHOLDS: Final = (USUAL_THRESHOLD, 0.3, 0.4, 0.6, 0.7, 0.8)  # the usual one first, which wins ties
SIZE_PERCENTILES: Final = (0.5, 1.0, 2.0, 5.0, 10.0)  # of the objects of the references

OfThresholds = tuple[tuple[Matches, ...], ...]
"""Matches by threshold, then by class."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoundInCase:
    """Objects that are found in a case with every threshold and no minimum, and by connected components alone.

    Attributes:
        grown: Matches of what grows from cores.
        centred: Matches of what grows from centre distances; empty where these are not learned.
    """

    voxel_size: float
    unit: SizeUnit
    grown: OfThresholds
    components: tuple[Matches, ...]
    centred: OfThresholds = ()

    def match(self, label: int, rule: ObjectRule) -> Matches:
        """Returns the matches of a class by a rule."""
        matched = self.grown if rule.seeds == "cores" else self.centred
        matches = matched[THRESHOLDS.index(rule.seed_threshold)][label - 1]
        return matches.keep(is_large_enough(matches.predicted_voxels * self.voxel_size, rule.minimum_mm3))

    def match_all(self, rules: Sequence[ObjectRule]) -> tuple[Matches, ...]:
        """Returns the matches of all classes, each by its rule."""
        return tuple(self.match(label, rule) for label, rule in enumerate(rules, start=1))


def learn_object_rules(
    job: VariantJob,
    candidates: Sequence[Sequence[str]],
    options: PredictionOptions,
    *,
    blocks: Sequence[Int64[np.ndarray, " case"]],
    progress: Progress,
) -> tuple[LearnedObjects, ...] | None:
    """Learns the rules of all classes for every candidate; None, with a warning, if cases are not preprocessed now.

    Learned rules are taken if they are better than the usual ones on blocks of cases that were left out in turn while
    they were learned. Each model predicts every case once, for all candidates.

    Args:
        job: All models and their held-out cases.
        candidates: Configurations of each candidate.
        options: Options of the prediction.
        blocks: Number of the block of each case, for each candidate.
        progress: Receives notes and progress.

    Raises:
        CasesFailedError: Some cases could not be predicted or read.
    """
    targets = job.members[0].plan.instances
    assert targets is not None, "objects are told apart"
    try:
        for member in job.members:
            check_preprocessed(job.run, member.plan, get_configuration(member).data_of, job.cases)
    except RunError as error:
        progress.note(f"warning: no rule for objects is learned, the usual ones remain: {error}")
        return None
    found = _find_in_cases(job, candidates, options, targets=targets, progress=progress)
    return tuple(
        choose_rules([found[case][index] for case in job.cases], targets, blocks=of_candidate)
        for index, of_candidate in enumerate(blocks)
    )


def choose_rules(
    found: Sequence[FoundInCase], targets: InstanceTargets, *, blocks: Int64[np.ndarray, " case"]
) -> LearnedObjects:
    """Chooses between the usual rules and learned ones; returns them, and what they do on cases that were left out."""
    usual = build_usual_rules(targets.labels)
    rules_of_cases = [usual] * len(found)
    before = _tabulate(found, rules_of_cases)
    gain, is_better, after = None, False, before
    if len(np.unique(blocks)) > 1:
        left_out = _learn_left_out(found, usual, blocks)
        after = _tabulate(found, left_out)
        gain = _compute_gain(before, after)
        is_better = gain.mean > 0
        rules_of_cases = left_out if is_better else rules_of_cases
    rules = tuple(_learn(found, label, rule) for label, rule in enumerate(usual, start=1)) if is_better else usual
    choice = ObjectChoice(
        rules=rules,
        gain=gain,
        because=_explain(gain, is_better=is_better),
        scores=_score([case.match_all(rules) for case in found], rules),
        components=_score([case.components for case in found], rules),
    )
    scored = tuple(_score_objects(case, own) for case, own in zip(found, rules_of_cases, strict=True))
    return choice, after if is_better else before, scored


def _learn_left_out(
    found: Sequence[FoundInCase], usual: tuple[ObjectRule, ...], blocks: Int64[np.ndarray, " case"]
) -> list[tuple[ObjectRule, ...]]:
    """Learns the rules of each case from the other blocks."""
    learned = {}
    for block in np.unique(blocks):
        others = [case for case, own in zip(found, blocks, strict=True) if own != block]
        learned[block] = tuple(_learn(others, label, rule) for label, rule in enumerate(usual, start=1))
    return [learned[block] for block in blocks]


def _score_objects(case: FoundInCase, rules: Sequence[ObjectRule]) -> ScoredObjects:
    """Measures and scores the objects of a case, from which estimates of their quality are calibrated."""
    matches = case.match_all(rules)
    scores = [score_objects([of_class]) for of_class in matches]
    return ScoredObjects(
        features=tuple(
            None
            if of_class.probabilities is None
            else measure_objects(of_class.predicted_voxels * case.voxel_size, of_class.probabilities)
            for of_class in matches
        ),
        f1=tuple(entry.F1 for entry in scores),
        pq=tuple(entry.PQ for entry in scores),
        expected=tuple(entry.expected for entry in scores),
    )


def _compute_gain(before: Table, after: Table) -> Gain:
    is_defined: Bool[np.ndarray, " class"] = ~np.isnan(before).all(axis=0)
    if not is_defined.any():
        return Gain(mean=0.0, lower=None, upper=None)
    return compute_gain(before[:, is_defined], after[:, is_defined])


def _explain(gain: Gain | None, *, is_better: bool) -> str:
    if gain is None:
        return "too few held-out cases to learn a rule, so the usual ones are taken"
    held = "in average precision on cases that were left out while they were learned"
    return f"learned rules gain {gain.describe()} {held}{'' if is_better else ', so the usual ones are taken'}"


def _score(matches: Sequence[tuple[Matches, ...]], rules: Sequence[ObjectRule]) -> dict[str, ObjectScores]:
    return {rule.name: score_objects([of_case[index] for of_case in matches]) for index, rule in enumerate(rules)}


def _learn(found: Sequence[FoundInCase], label: int, usual: ObjectRule) -> ObjectRule:
    """Finds seeds, threshold and minimum with the highest mean of the average precision; the usual ones win ties."""
    shared = usual.model_copy(update={"unit": found[0].unit})
    candidates = [
        shared.model_copy(update={"seeds": seeds, "seed_threshold": threshold, "minimum_mm3": minimum})
        for seeds in (("cores", "centres") if found[0].centred else ("cores",))
        for threshold in THRESHOLDS
        for minimum in _propose_minima(found, label)
    ]
    means = [_compute_mean([_compute_precision(case.match(label, rule)) for case in found]) for rule in candidates]
    return candidates[int(np.argmax(means))]


def _propose_minima(found: Sequence[FoundInCase], label: int) -> tuple[float, ...]:
    sizes = np.concatenate([case.components[label - 1].reference_voxels * case.voxel_size for case in found])
    if not sizes.size:
        return (0.0,)
    return (0.0, *dict.fromkeys(float(f"{value:.4g}") for value in np.percentile(sizes, SIZE_PERCENTILES)))


def _tabulate(found: Sequence[FoundInCase], rules: Sequence[tuple[ObjectRule, ...]]) -> Table:
    """Computes the average precision of each case and class by the rules of the case."""
    return np.array(
        [[_compute_precision(own) for own in case.match_all(chosen)] for case, chosen in zip(found, rules, strict=True)]
    )


def _compute_precision(matches: Matches) -> float:
    precision = score_objects([matches]).AP
    return np.nan if precision is None else precision


def _compute_mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else 0.0


def _find_in_cases(
    job: VariantJob,
    candidates: Sequence[Sequence[str]],
    options: PredictionOptions,
    *,
    targets: InstanceTargets,
    progress: Progress,
) -> dict[str, tuple[FoundInCase, ...]]:
    found: dict[str, tuple[FoundInCase, ...]] = {}

    def find(case: str, outputs: Sequence[CaseOutput]) -> tuple[FoundInCase, ...]:
        by_name = {output.model.configuration: output for output in outputs}
        own = ([by_name[name] for name in names] for names in candidates)
        return tuple(_find_in_case(job.run, case, members, targets) for members in own)

    def keep(case: str, of_candidates: tuple[FoundInCase, ...]) -> None:
        found[case] = of_candidates

    logits_options = PredictionOptions(
        mirroring=options.mirroring, step_fraction=options.step_fraction, decoding=DEFAULT_OPTIONS.decoding
    )
    events = (
        event
        for models, cases in job.load_models(job.cases, logits_options)
        for event in predict_preprocessed_cases(
            job.run, models, cases, finish=find, write=keep, progress=progress, options=logits_options
        )
    )
    complete_cases(
        events, progress=progress, label="Learning objects", total=len(job.cases), log=job.run.logs / LOG_NAME
    )
    return found


def _find_in_case(run: RunFolder, case: str, outputs: Sequence[CaseOutput], targets: InstanceTargets) -> FoundInCase:
    ensemble = Ensemble(members=tuple(output.model for output in outputs))
    logits, geometries = [output.logits for output in outputs], [output.geometry for output in outputs]
    grid = geometries[0].grid
    maps = build_core_maps(ensemble.iterate_probabilities(logits, geometries), grid.shape_voxels, targets)
    classes = targets.merge(targets.target_labels.encode(read_label_map(find_reference(run, case)).array))
    numbers = read_label_map(find_reference_objects(run.references, case)).array
    return match_case(maps, classes, numbers, targets=targets, grid=grid)


def match_case(
    maps: CoreMaps,
    classes: Int16[np.ndarray, "z y x"],
    numbers: Integer[np.ndarray, "z y x"],
    *,
    targets: InstanceTargets,
    grid: Grid,
) -> FoundInCase:
    """Matches the objects of all rules with those of the reference; ignored voxels count for their sizes alone.

    Args:
        maps: Answer of the network.
        classes: Reference of the classes.
        numbers: Numbers of the objects of the reference.
        targets: Labels by which objects are told apart.
        grid: Grid of all.
    """
    is_scored = classes != (-1 if targets.labels.ignore_label is None else targets.labels.ignore_label)
    labels = range(1, 1 + targets.class_count)
    references = [number_reference(numbers, classes == label) for label in labels]
    usual = build_usual_rules(targets.labels)

    def match_seeds(seeds: str) -> OfThresholds:
        found = (
            [rule.model_copy(update={"seeds": seeds, "seed_threshold": threshold}) for rule in usual]
            for threshold in THRESHOLDS
        )
        return tuple(
            tuple(
                _match_scored(
                    grow_by_rule(maps, label, rule, spacing_mm=grid.spacing_mm),
                    reference,
                    is_scored,
                    maps.probabilities,
                )
                for label, rule, reference in zip(labels, rules, references, strict=True)
            )
            for rules in found
        )

    return FoundInCase(
        voxel_size=compute_voxel_mm3(grid.shape_voxels, grid.spacing_mm),
        unit=find_size_unit([grid]),
        grown=match_seeds("cores"),
        centred=match_seeds("centres") if targets.centre_steps else (),
        components=tuple(
            match_objects(
                number_scored_components(maps.classes == label, is_scored, numbers=numbers, is_class=reference > 0),
                reference,
            )
            for label, reference in zip(labels, references, strict=True)
        ),
    )


def _match_scored(
    objects: Int32[np.ndarray, "z y x"],
    reference: Int64[np.ndarray, "z y x"],
    is_scored: Bool[np.ndarray, "z y x"],
    probabilities: Float32[np.ndarray, "z y x"],
) -> Matches:
    """Matches the scored voxels of objects, whose sizes are those of a prediction, which knows no ignored voxels."""
    voxels = np.bincount(objects.ravel())
    is_left = np.bincount(objects[is_scored], minlength=voxels.size) > 0
    is_left[0] = False
    sums = np.bincount(objects.ravel(), weights=probabilities.ravel())
    return replace(
        match_objects(objects * is_scored, reference),
        predicted_voxels=voxels[is_left],
        probabilities=sums[is_left] / voxels[is_left],
    )
