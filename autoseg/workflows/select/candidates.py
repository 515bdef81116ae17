"""Ranks the candidates: the highest score wins, and a stage stays only where it is better, or cheaper and as good.

The score is the mean Dice, as in nnU-Net, or the average precision of objects where these are told apart. A stage is a
configuration that corrects what another one predicts, or that predicts in the box of what another one finds. The masks
of a cascade make none: it is compared like any other configuration, as in nnU-Net.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64

from autoseg.errors import RunError
from autoseg.evaluation.crossvalidation import FEWEST_CASES, Table
from autoseg.evaluation.gain import LARGEST_DICE_LOSS, Gain, compute_column_means, compute_gain
from autoseg.geometry import add_slice_axis
from autoseg.inference.options import DEFAULT_OPTIONS
from autoseg.inference.sliding_window.windows import count_passes, count_views
from autoseg.networks.cost import count_cost
from autoseg.plan.document import Plan
from autoseg.plan.stages import BoundaryOfPreviousStage, BoxOfPreviousStage, MasksOfPreviousStage
from autoseg.preprocessing.cache import CachedCase
from autoseg.run_folder import RunFolder
from autoseg.stages.boundary import build_class_masks, find_boundary, select_centres
from autoseg.stages.training_cases import open_training_case, read_box
from autoseg.workflows.evaluate.evaluation import EvaluationJob
from autoseg.workflows.select.held_out import HeldOut
from autoseg.workflows.select.selection_document import NAMES_JOINED_BY, LearnedObjects, StageVerdict, name_pruned

MOST_COUNTED_CASES: Final = 20
"""Cases whose windows are counted for the cost of an image: finding the boundaries of many takes long."""

IsScored = Bool[np.ndarray, " class"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelCandidate:
    """A configuration or a pair of them, and its predictions.

    Attributes:
        members: One configuration, or two.
        jobs: Predictions and references of all cases.
        dice: Dice of each class, with a row for each case.
        nsd: Normalized surface Dice in the same way; None if it is not needed.
        pruned_depth: Depth to which the networks of the only member are pruned; None for whole ones.
        objects: Rules and scores of its objects; None where they are not told apart.
        image_cost: Multiply-adds of an image, in billions; None where they are not known.
        verdict: Whether it stays; None if it is no stage, or what it follows is not compared.
    """

    members: tuple[HeldOut, ...]
    jobs: tuple[EvaluationJob, ...]
    dice: Table
    nsd: Table | None = None
    pruned_depth: int | None = None
    objects: LearnedObjects | None = None
    image_cost: float | None = None
    verdict: StageVerdict | None = None

    @property
    def configurations(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(member.configuration for member in self.members)

    @property
    def name(self) -> str:
        """Name for messages."""
        return name_pruned(NAMES_JOINED_BY.join(self.configurations), self.pruned_depth)

    @property
    def score_name(self) -> str:
        """Name of the score by which it is ranked."""
        return "Dice" if self.objects is None else "AP of objects"

    @property
    def is_left_out(self) -> bool:
        """Whether it is a stage that does not stay."""
        return self.verdict is not None and not self.verdict.is_kept

    @property
    def stands_in(self) -> bool:
        """Whether it takes the place of what it follows although its own score is no higher."""
        return self.verdict is not None and self.verdict.is_kept and self.verdict.score <= self.verdict.followed_score

    def select_scores(self, is_scored: IsScored) -> Float64[np.ndarray, "case scored"]:
        """Selects the scores by which it is ranked, of the classes that are scored."""
        if self.objects is None:
            return self.dice[:, is_scored]
        table = self.objects[1]
        return table[:, is_scored[: table.shape[1]]]  # cores, one for each class, come before borders

    def compute_mean(self, is_scored: IsScored) -> float:
        """Computes the mean of its scores: over classes, of means over cases."""
        return float(np.mean(compute_column_means(self.select_scores(is_scored))))


def rank(candidates: Sequence[ModelCandidate], is_scored: IsScored) -> list[ModelCandidate]:
    """Sorts by mean score, the highest first; ties keep their order, so that one model comes before two.

    With few cases every single model comes before every pair, which would have to earn its double cost. Stages that do
    not stay come last; one that stays comes before what it follows.
    """
    is_pair_last = len(candidates[0].dice) < FEWEST_CASES

    def find_place(candidate: ModelCandidate) -> tuple[bool, bool, float, bool, float]:
        mean, cost = candidate.compute_mean(is_scored), 0.0
        if candidate.stands_in and candidate.verdict is not None:
            mean, cost = candidate.verdict.followed_score, candidate.image_cost or 0.0
        is_pair = is_pair_last and len(candidate.members) > 1
        return candidate.is_left_out, is_pair, -mean, not candidate.stands_in, cost

    return sorted(candidates, key=find_place)


def explain(ranked: Sequence[ModelCandidate], is_scored: IsScored) -> str:
    """Explains why the first candidate was chosen, and what became of the stages."""
    left = [candidate for candidate in ranked if not candidate.is_left_out]
    standing = [candidate for candidate in left if not candidate.stands_in] if left[0].stands_in else left
    parts = [_explain_best(standing, is_scored)]
    if left[0].verdict is not None:
        parts.append(f"{left[0].name} stays: {left[0].verdict.because}")
    dropped = (candidate for candidate in ranked if candidate.is_left_out)
    parts += [f"{one.name} is left out: {one.verdict.because}" for one in dropped if one.verdict is not None]
    return "; ".join(parts)


def _explain_best(ranked: Sequence[ModelCandidate], is_scored: IsScored) -> str:
    best = ranked[0]
    score = f"mean {best.score_name} {best.compute_mean(is_scored):.4f} over {len(best.dice)} held-out cases"
    if len(ranked) == 1:
        return f"{best.name} is the only candidate: {score}"
    second = ranked[1]
    gain = compute_gain(second.select_scores(is_scored), best.select_scores(is_scored))
    return (
        f"{best.name} has the highest of {_describe_rivals(ranked)}: {score}; the next, {second.name}, has "
        f"{second.compute_mean(is_scored):.4f}, a difference of {gain.describe()}"
    )


def _describe_rivals(ranked: Sequence[ModelCandidate]) -> str:
    singles = sum(len(candidate.members) == 1 for candidate in ranked)
    if len(ranked[0].dice) >= FEWEST_CASES or singles == len(ranked):
        return f"{len(ranked)} candidates"
    return f"{singles} single model{'' if singles == 1 else 's'} (too few cases to tell whether a pair is better)"


def has_stages(candidates: Sequence[ModelCandidate]) -> bool:
    """Returns whether any candidate holds a stage."""
    return any(len(_list_followed(member)) > 0 for candidate in candidates for member in candidate.members)


def judge_stages(candidates: Sequence[ModelCandidate], is_scored: IsScored) -> list[ModelCandidate]:
    """Judges every candidate with a stage against the same one with what the stage follows in its place.

    It stays if the 95 % interval of its gain is above 0: in the score by which candidates are ranked, or, where the
    mean of that does not fall, in NSD. A stage that predicts in a box is there to save time: it also stays if an image
    costs less and its score is at most `LARGEST_DICE_LOSS` lower. It follows the network that sees whole images, if
    that is compared.
    """
    known = {frozenset(candidate.configurations): candidate for candidate in candidates}
    return [_judge(candidate, _find_followed(candidate, known), is_scored) for candidate in candidates]


def _list_followed(member: HeldOut) -> tuple[str, ...]:
    """Lists what a configuration may be compared with if it is a stage, the best one first; empty if it is none."""
    part = member.plan.configurations[member.configuration]
    stage = part.previous_stage
    if stage is None or isinstance(stage, MasksOfPreviousStage):
        return ()
    whole = (part.data_of,) if isinstance(stage, BoxOfPreviousStage) and part.data_of != member.configuration else ()
    return (*whole, stage.configuration)


def _find_followed(candidate: ModelCandidate, known: Mapping[frozenset[str], ModelCandidate]) -> ModelCandidate | None:
    own = frozenset(candidate.configurations)
    options = [_list_followed(member) or (member.configuration,) for member in candidate.members]
    found = (known.get(frozenset(names)) for names in product(*options) if frozenset(names) != own)
    return next((followed for followed in found if followed is not None), None)


def _judge(candidate: ModelCandidate, followed: ModelCandidate | None, is_scored: IsScored) -> ModelCandidate:
    if followed is None:
        return candidate
    gain = compute_gain(followed.select_scores(is_scored), candidate.select_scores(is_scored))
    nsd_gain = None
    if candidate.objects is None and candidate.nsd is not None and followed.nsd is not None:
        nsd_gain = compute_gain(followed.nsd[:, is_scored], candidate.nsd[:, is_scored])
    is_better, because = _judge_gains(candidate, followed, gain, nsd_gain)
    if not is_better and any(isinstance(_get_stage(member), BoxOfPreviousStage) for member in candidate.members):
        is_better, words = _judge_cost(candidate, followed, gain)
        because = words if is_better else f"{because}, and {words}"
    verdict = StageVerdict(
        follows=followed.configurations,
        is_kept=is_better,
        score=candidate.compute_mean(is_scored),
        followed_score=followed.compute_mean(is_scored),
        gain=gain,
        nsd_gain=nsd_gain,
        because=because,
    )
    return replace(candidate, verdict=verdict)


def _get_stage(member: HeldOut) -> object:
    return member.plan.configurations[member.configuration].previous_stage


def _judge_gains(
    candidate: ModelCandidate, followed: ModelCandidate, gain: Gain, nsd_gain: Gain | None
) -> tuple[bool, str]:
    told = f"it gains {gain.describe()} in {candidate.score_name}"
    if nsd_gain is not None:
        told += f" and {nsd_gain.describe()} in NSD"
    told += f" over {followed.name}"
    if gain.lower is not None and gain.lower > 0:
        return True, told
    if nsd_gain is not None and nsd_gain.lower is not None and nsd_gain.lower > 0:
        return (True, told) if gain.mean >= 0 else (False, f"{told}, and the first must not fall")
    return False, told if gain.lower is None else f"{told}, not all of {'either' if nsd_gain else 'it'} above 0"


def _judge_cost(candidate: ModelCandidate, followed: ModelCandidate, gain: Gain) -> tuple[bool, str]:
    if candidate.image_cost is None or followed.image_cost is None:
        return False, "what an image costs is not known, as cases are not preprocessed any more"
    share = f"an image costs {candidate.image_cost / followed.image_cost:.2f} times that of {followed.name}"
    if candidate.image_cost >= followed.image_cost:
        return False, share
    told = f"{share}, and its {candidate.score_name} differs by {gain.describe()}"
    if not gain.has_interval:
        return False, told
    if gain.mean < -LARGEST_DICE_LOSS:
        return False, f"{told}, more than {LARGEST_DICE_LOSS} below"
    return True, f"{told}, at most {LARGEST_DICE_LOSS} below"


def add_costs(run: RunFolder, candidates: Sequence[ModelCandidate]) -> list[ModelCandidate]:
    """Counts what an image costs on average, previous stages included; left out where cases are not preprocessed."""
    jobs = candidates[0].jobs
    cases = [job.case for job in jobs[:: -(-len(jobs) // MOST_COUNTED_CASES)]]
    members = {member.configuration: member for candidate in candidates for member in candidate.members}
    try:
        costs = {name: _count_image_cost(run, member.plan, name, cases) for name, member in members.items()}
    except RunError:
        return list(candidates)
    return [replace(one, image_cost=sum(costs[name] for name in one.configurations)) for one in candidates]


def _count_image_cost(run: RunFolder, plan: Plan, configuration: str, cases: Sequence[str]) -> float:
    """Counts the billions of multiply-adds of the networks of one fold for an image, with mirrored views."""
    total = 0.0
    for stage in plan.list_stages(configuration):
        part = plan.configurations[stage]
        patches = sum(_count_patches(open_training_case(run, plan, stage, case), plan, stage) for case in cases)
        total += patches / len(cases) * count_cost(part.network, part.patch_voxels, 1).multiply_adds
    return total / 1e9


def _count_patches(case: CachedCase, plan: Plan, configuration: str) -> int:
    """Counts the patches that a network computes for a case: in a box, around boundaries, or of all of it."""
    part = plan.configurations[configuration]
    stage, shape = part.previous_stage, case.geometry.resampled_shape_voxels
    if isinstance(stage, BoundaryOfPreviousStage):
        patch, (stage_map,) = add_slice_axis(part.patch_voxels, 1), case.further_maps
        boundaries = (
            find_boundary(mask, axes=part.dimensions) for mask in build_class_masks(stage_map[:], plan.labels)
        )
        centres = (select_centres(boundary, patch, overlap_limit=stage.overlap_limit) for boundary in boundaries)
        return sum(map(len, centres)) * count_views(part)
    box = read_box(case, plan, configuration)
    if box is not None:
        z, y, x = (end - first for first, end in box)
        shape = (z, y, x)
    return count_passes(shape, part, DEFAULT_OPTIONS)


def describe_stages(candidates: Sequence[ModelCandidate]) -> Iterator[str]:
    """Describes for the user what every candidate costs, and which stages stay."""
    if all(candidate.image_cost is not None for candidate in candidates):
        costs = ", ".join(f"{candidate.name} {candidate.image_cost:.4g}" for candidate in candidates)
        yield f"cost of an image in billions of multiply-adds, mirrored views and previous stages included: {costs}"
    for candidate in candidates:
        followed = [name for member in candidate.members for name in _list_followed(member)]
        if candidate.verdict is not None:
            yield f"{candidate.name} {'is left out' if candidate.is_left_out else 'stays'}: {candidate.verdict.because}"
        elif followed:
            yield (
                f"{candidate.name} is ranked by its score alone: it is not compared with {' or '.join(followed)}, "
                f"which would tell what the stage gains"
            )
