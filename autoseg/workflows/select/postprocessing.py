"""Learns from held-out predictions which postprocessing helps: a pass over the cases, then a decision, per rule."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from jaxtyping import Int64

from autoseg.errors import CasesFailedError
from autoseg.evaluation.case_metrics import LabelMapPair
from autoseg.evaluation.gain import find_scored_classes
from autoseg.geometry import Grid
from autoseg.labels import LabelScheme
from autoseg.postprocessing.application import apply_rules
from autoseg.postprocessing.effects import (
    Change,
    ComponentEffects,
    Counts,
    count_class_voxels,
    measure_components,
    measure_holes,
)
from autoseg.postprocessing.learning import (
    Cases,
    Step,
    decide,
    keep_largest_components,
    learn_minimum_size,
    stack_changes,
    stack_counts,
)
from autoseg.postprocessing.rules import (
    MinimumSize,
    Rule,
    SizeUnit,
    fill_holes,
    find_size_unit,
    keep_largest,
    keep_largest_foreground,
    require_minimum_size,
)
from autoseg.processes.case_pool import compute_worker_count, list_problems, run_over_cases
from autoseg.processes.progress import Progress
from autoseg.workflows.evaluate.evaluation import BYTES_PER_CASE, EvaluationJob, read_pair

BACKGROUND = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseEffects:
    """Effects of candidate rules on one case.

    Attributes:
        grid: Grid of the reference.
        counts: Voxel counts with the rules accepted so far.
        components: Effects of removing components, for each requested mask.
        holes: Effect of filling the holes of each requested class.
    """

    grid: Grid
    counts: Counts
    components: tuple[ComponentEffects, ...]
    holes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearnedPostprocessing:
    """Learned postprocessing.

    Attributes:
        rules: Accepted rules, in the order of application.
        steps: All rules that were tried, in their order.
        before: Counts without any rule; a row for each case.
        after: Counts with all accepted rules.
    """

    rules: tuple[Rule, ...]
    steps: tuple[Step, ...]
    before: Counts
    after: Counts


def learn_postprocessing(
    jobs: Sequence[EvaluationJob],
    *,
    blocks: Int64[np.ndarray, " case"],
    progress: Progress,
    tries_rules: bool = True,
) -> LearnedPostprocessing:
    """Tries the rules one kind after the other, each on top of what was accepted before.

    The largest component of all foreground; then for each class its largest component and a minimum size of its
    components; then holes. Classes that no reference has are left alone.

    Args:
        jobs: Held-out predictions and their references.
        blocks: Number of the block of each job; blocks are held out in turn where a parameter is learned.
        progress: Receives notes and progress.
        tries_rules: False to count alone: objects have a rule of their own, and many of them are small.

    Raises:
        CasesFailedError: A file cannot be read.
    """
    learner = _Learner(jobs=jobs, blocks=blocks, labels=jobs[0].labels, progress=progress)
    if not tries_rules:
        counts = learner.count()
        return LearnedPostprocessing(rules=(), steps=(), before=counts, after=counts)
    before = learner.try_foreground()
    targets = _find_targets(before.reference, learner.labels)
    for group in group_disjoint(targets, learner.labels):
        learner.try_components(group)
    learner.try_holes(targets)
    after = learner.count() if learner.rules else before
    return LearnedPostprocessing(rules=tuple(learner.rules), steps=tuple(learner.steps), before=before, after=after)


def group_disjoint(targets: Sequence[int], labels: LabelScheme) -> Iterator[tuple[int, ...]]:
    """Groups neighbouring classes that share no label, whose components can be found in one pass."""
    group: list[int] = []
    taken: set[int] = set()
    for index in targets:
        members = set(labels.class_labels[index])
        if members & taken:
            yield tuple(group)
            group, taken = [], set()
        group.append(index)
        taken |= members
    if group:
        yield tuple(group)


def measure_effects(
    files: EvaluationJob,
    *,
    rules: tuple[Rule, ...],
    groups: tuple[tuple[int, ...], ...] = (),
    hole_classes: tuple[int, ...] = (),
) -> CaseEffects:
    """Measures the effects of candidate rules on one case, in a worker process.

    Args:
        files: Prediction and reference.
        rules: Rules accepted so far; applied first.
        groups: Disjoint masks, as internal labels, whose components are measured.
        hole_classes: Indices of the classes whose holes are measured.

    Raises:
        VolumeError: A file cannot be read.
        EvaluationError: A file holds unknown values.
    """
    labels = files.labels
    read, grid = read_pair(files)
    spacing_mm = grid.spacing_mm
    finished = apply_rules(read.prediction, rules, labels=labels, spacing_mm=spacing_mm)
    pair = LabelMapPair(prediction=finished, reference=read.reference)
    return CaseEffects(
        grid=grid,
        counts=count_class_voxels(pair, labels),
        components=measure_components(pair, groups, labels=labels, spacing_mm=spacing_mm) if groups else (),
        holes=tuple(measure_holes(pair, index, labels=labels) for index in hole_classes),
    )


@dataclass(slots=True, kw_only=True, eq=False)
class _Learner:
    """Rules accepted so far, and the search for further ones."""

    jobs: Sequence[EvaluationJob]
    blocks: Int64[np.ndarray, " case"]
    labels: LabelScheme
    progress: Progress
    rules: list[Rule] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def try_foreground(self) -> Counts:
        """Tries to keep the largest component of all foreground; returns the counts before any rule."""
        measured = self._measure("foreground", groups=(self.labels.foreground_labels,))
        cases = self._open_cases(measured)
        after, _ = keep_largest_components([entry.components[0] for entry in measured], cases)
        self._judge(keep_largest_foreground(self.labels), cases, after)
        return cases.counts

    def try_components(self, group: tuple[int, ...]) -> None:
        """Tries largest component and minimum size for classes that share no label."""
        masks = tuple(self.labels.class_labels[index] for index in group)
        measured = self._measure(self._name(group), groups=masks)
        cases = self._open_cases(measured)
        effects = [tuple(entry.components[place] for entry in measured) for place in range(len(group))]
        size_unit = find_size_unit(entry.grid for entry in measured)
        for place, index in enumerate(group):
            if set(masks[place]) == set(self.labels.foreground_labels):
                continue  # already tried as the foreground
            after, kept = keep_largest_components(effects[place], cases)
            if self._judge(keep_largest(self.labels, index), cases, after):
                cases, effects[place] = cases.change(after), kept
        for place, index in enumerate(group):
            cases = self._try_minimum(index, effects[place], cases, size_unit=size_unit)

    def _try_minimum(
        self, index: int, effects: Sequence[ComponentEffects], cases: Cases, *, size_unit: SizeUnit
    ) -> Cases:
        def build_rule(minimum_mm3: float) -> MinimumSize:
            return require_minimum_size(self.labels, index, minimum_mm3, size_unit)

        step, counts = learn_minimum_size(build_rule, effects, cases)
        self._record(step)
        return cases.change(counts)

    def try_holes(self, targets: Sequence[int]) -> None:
        """Tries to fill the holes of each class; after a success, the remaining holes are measured again."""
        waiting = tuple(targets)
        while waiting:
            measured = self._measure("holes", hole_classes=waiting)
            cases = self._open_cases(measured)
            for place, index in enumerate(waiting):
                after = cases.counts.change(stack_changes([entry.holes[place] for entry in measured]))
                if self._judge(fill_holes(self.labels, index), cases, after):
                    break
            waiting = waiting[place + 1 :]

    def count(self) -> Counts:
        """Counts voxels with all accepted rules."""
        return stack_counts([entry.counts for entry in self._measure("all rules")])

    def _judge(self, rule: Rule, cases: Cases, after: Counts) -> bool:
        step = decide(rule, cases, after)
        self._record(step)
        return step.accepted

    def _record(self, step: Step) -> None:
        self.steps.append(step)
        if step.accepted:
            assert step.rule is not None, "only rules are accepted"
            self.rules.append(step.rule)

    def _open_cases(self, measured: Sequence[CaseEffects]) -> Cases:
        counts = stack_counts([entry.counts for entry in measured])
        return Cases(counts=counts, blocks=self.blocks, class_names=self.labels.class_names)

    def _name(self, group: Sequence[int]) -> str:
        names = [self.labels.class_names[index] for index in group]
        return names[0] if len(names) == 1 else f"{len(names)} classes"

    def _measure(
        self, what: str, *, groups: tuple[tuple[int, ...], ...] = (), hole_classes: tuple[int, ...] = ()
    ) -> tuple[CaseEffects, ...]:
        measure = partial(measure_effects, rules=tuple(self.rules), groups=groups, hole_classes=hole_classes)
        jobs = [(files.case, files) for files in self.jobs]
        workers = compute_worker_count(requested=None, case_count=len(jobs), bytes_per_case=BYTES_PER_CASE)
        outcome = run_over_cases(
            measure, jobs, workers=workers, label=f"Postprocessing: {what}", progress=self.progress
        )
        if outcome.failures:
            heading = f"{len(outcome.failures)} of {len(jobs)} held-out predictions cannot be used:"
            raise CasesFailedError(heading, list_problems(outcome.failures))
        return outcome.results


def _find_targets(reference: Int64[np.ndarray, "case class"], labels: LabelScheme) -> tuple[int, ...]:
    """Finds the classes that occur in a reference and do not include the background."""
    is_scored = find_scored_classes(reference)
    return tuple(
        index for index, members in enumerate(labels.class_labels) if is_scored[index] and BACKGROUND not in members
    )
