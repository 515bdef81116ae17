"""Choice of the fastest execution on a GPU: measured at the start of a training, on real steps, and announced."""

import gc
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any, Final, Protocol, runtime_checkable

import torch

from autoseg.networks.blocks import CHANNELS_LAST, has_fused_normalization
from autoseg.runtime.device import describe_error
from autoseg.training.budget.remembered_trials import StepTrials, StoredExecution, TrialMemory
from autoseg.training.data.batch import Batch
from autoseg.training.execution import TrainingExecution
from autoseg.training.learner import Learner
from autoseg.training.step import run_training_step, run_validation_step

WARMING_STEPS: Final = 3  # kernels are chosen, memory is reserved, a network is compiled, a step is captured
MEASURED_STEPS: Final = 5
BATCHES_OF_A_TRIAL: Final = 2
COMPILER: Final = "inductor"
COMPILING_PAYS_SECONDS: Final = 1200.0
"""Training time from which compiling pays. A guess: a U-Net compiles for 1 to 2 minutes and gains 3 % to a quarter."""
LOSS_TOLERANCE: Final = 0.02
"""Largest difference of the first losses of two executions. Those of 16 bits differ by less than 0.002 (measured on a
CPU); a wrong kernel changes a loss by its size."""
COURSE_TOLERANCE: Final = 0.1
"""The same of the losses after steps on both batches (guess): weights that are rounded differently part slowly."""
SMALLEST_GAIN: Final = 0.02
"""Fraction of a step that a variant must save (guess): timings of the same step differ by about as much."""
VARIANTS_PAY_SECONDS: Final = 120.0
"""Training time from which further executions are tried (guess): each trial takes a second or two."""
TRIALS_SHARE: Final = 0.03
"""Part of the training time after which no further execution is tried."""
NO_MEMORY: Final = TrialMemory()


@runtime_checkable
class BesideCompiler(Protocol):
    """Compiles beside a training; see `CompilingBeside`."""

    def has_room(self) -> bool:
        """Returns whether the memory of the device holds a second training."""
        ...

    def start(self, execution: TrainingExecution, compare: Callable[[], TrainingExecution | None]) -> None:
        """Starts to compile a step; `compare` is called when the code is there."""
        ...


class NotCapturedError(RuntimeError):
    """Training steps cannot be captured as a CUDA graph; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A way to execute the network, what a step took, and the losses of the steps.

    Attributes:
        losses: Losses of steps on two batches in turn.
    """

    execution: TrainingExecution
    step_seconds: float
    losses: tuple[float, ...]

    def describe(self) -> str:
        """Describes the execution and its time in messages."""
        return f"{self.execution.describe()} {self.step_seconds:.3g} s"


def choose_execution(
    build: Callable[[TrainingExecution], Learner],
    batch: Batch,
    *,
    iterations: int,
    announce: Callable[[str], None],
    seconds: float = math.inf,
    compiler: str = COMPILER,
    pays_from_seconds: float | None = None,
    variants: Sequence[Mapping[str, Any]] = (),
    remember: Callable[[TrainingExecution], None] = lambda execution: None,
    beside: BesideCompiler | None = None,
    memory: TrialMemory = NO_MEMORY,
) -> TrainingExecution:
    """Trains a few steps in every way, and takes the fastest.

    A network that cannot be compiled is trained as it is, and steps that cannot be captured are run one operation after
    the other; why is announced.

    Args:
        build: Makes learners that are thrown away.
        batch: Batch for the timed steps.
        iterations: Iterations left to train.
        announce: Called with the measurements and the choice, in words.
        seconds: Seconds left to train.
        compiler: Backend of torch.compile.
        pays_from_seconds: Training time from which compiling pays; None: that of a network that never was compiled.
        variants: Changes of the execution that are tried one after the other, each on the fastest one before it.
        remember: Called with a compiled execution that is taken.
        beside: Compiles beside the training, where memory allows it; None: compiling comes first.
        memory: Holds the results of earlier trials: the fastest execution is timed once and taken.
    """
    pays_from_seconds = COMPILING_PAYS_SECONDS if pays_from_seconds is None else pays_from_seconds
    course = _Course(build=build, batch=batch, iterations=iterations, seconds=seconds, announce=announce)
    known = memory.read()
    trials, reasons = ([], []) if known is None else course.try_known(known)
    if not trials:
        trials, reasons = course.try_all(variants, memory)
    best = min(trials, key=lambda trial: trial.step_seconds)
    if known is not None and known.is_compiling_slower:
        reasons += ["not compiled, which was slower in earlier trials"]
    elif course.estimate_seconds(best) < pays_from_seconds:
        reasons += [f"not compiled, which pays from {pays_from_seconds / 60:.0f} minutes of training on"]
    else:
        # The compiler fuses normalization and activation by itself.
        plain = replace(best.execution, compiler=compiler, is_norm_fused=False)
        compare = partial(
            _compare_compiled,
            build,
            plain,
            batch,
            best=best,
            reference=trials[0],
            announce=announce,
            remember=remember,
            memory=memory,
        )
        if beside is not None and beside.has_room():
            beside.start(plain, compare)
            reasons += ["it is compiled beside the first epochs, and compared then"]
        else:
            announce("compiling the network, to see whether it is faster then (takes a minute or two)")
            return compare(trials=trials, reasons=reasons) or best.execution
    announce(f"a step takes: {_describe(trials)}; {'; '.join(reasons)}; taken: {best.execution.describe()}")
    return best.execution


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """The trials at the beginning of a training, the compiler's left out.

    Attributes:
        begin: When they began.
    """

    build: Callable[[TrainingExecution], Learner]
    batch: Batch
    iterations: int
    seconds: float
    announce: Callable[[str], None]
    begin: float = field(default_factory=lambda: time.perf_counter())

    def estimate_seconds(self, best: Trial) -> float:
        """Estimates how long the training lasts."""
        return min(self.seconds, self.iterations * best.step_seconds)

    def try_known(self, known: StepTrials) -> tuple[list[Trial], list[str]]:
        """Times what earlier trials have taken; none if this training would try more, or if it fails, which is told.

        What was measured on a device that is used alone may lack memory on one that is shared.
        """
        execution = known.execution.restore(self.batch.label_map.ndim - 1)
        try:
            trial = _try(self.build, execution, self.batch)
        except Exception as error:  # whatever it is, trials find what works
            reason = describe_error(error)
            self.announce(f"{execution.describe()}, which earlier trials have taken, failed ({reason}): measuring anew")
            return [], []
        finally:
            gc.collect()  # the memory of a graph
        if not known.suffice(self.estimate_seconds(trial)):
            return [], []
        return [trial], ["taken from earlier trials"]

    def try_all(self, variants: Sequence[Mapping[str, Any]], memory: TrialMemory) -> tuple[list[Trial], list[str]]:
        """Times every execution but compiled ones, the reference first; remembers the fastest."""
        formats = (CHANNELS_LAST[self.batch.label_map.ndim - 1], torch.contiguous_format)
        trials = _try_formats(self.build, formats, self.batch, self.announce)
        candidates = [trial.execution for trial in trials]
        fused = _list_fused(candidates, self.batch)
        captured, reasons = self._try_each([replace(each, is_captured=True) for each in candidates + fused], trials[0])
        trials += captured
        if not captured:
            uncaptured, why = self._try_each(fused, trials[0])
            trials, reasons = [*trials, *uncaptured], [*reasons, *why]
        trials, why, are_all_tried = self._try_variants(variants, trials)
        best = min(trials, key=lambda trial: trial.step_seconds)
        memory.write(
            StepTrials(
                execution=StoredExecution.store(best.execution),
                training_seconds=self.estimate_seconds(best),
                are_all_tried=are_all_tried,
            )
        )
        return trials, [*reasons, *why]

    def _try_variants(
        self, variants: Sequence[Mapping[str, Any]], trials: list[Trial]
    ) -> tuple[list[Trial], list[str], bool]:
        """Tries changes of the fastest execution; returns all trials, why some are left out, and whether all ran."""
        reasons: list[str] = []
        best = min(trials, key=lambda trial: trial.step_seconds)
        if self.estimate_seconds(best) < VARIANTS_PAY_SECONDS:
            return trials, reasons, not variants
        for variant in variants:
            spent, length = time.perf_counter() - self.begin, self.estimate_seconds(best)
            if spent > TRIALS_SHARE * length:
                told = f"no further execution is tried, as trials have taken {spent:.0f} of {length:.0f} s"
                return trials, [*reasons, told], False
            if _fits(variant, best.execution):
                tried, why = self._try_each([replace(best.execution, **variant)], trials[0])
                faster = [trial for trial in tried if trial.step_seconds <= (1 - SMALLEST_GAIN) * best.step_seconds]
                slower = [f"{trial.describe()} is not worth it" for trial in tried if trial not in faster]
                trials, reasons = [*trials, *faster], [*reasons, *why, *slower]
                best = min(trials, key=lambda trial: trial.step_seconds)
        return trials, reasons, True

    def _try_each(self, executions: Sequence[TrainingExecution], reference: Trial) -> tuple[list[Trial], list[str]]:
        return _try_each(self.build, executions, self.batch, reference=reference)


def _describe(trials: Sequence[Trial]) -> str:
    return ", ".join(trial.describe() for trial in trials)


def _try_formats(
    build: Callable[[TrainingExecution], Learner],
    formats: Sequence[torch.memory_format],
    batch: Batch,
    announce: Callable[[str], None],
) -> list[Trial]:
    """Times each format; skips one that needs too much memory or has no kernel, unless no other is left."""
    trials: list[Trial] = []
    for execution in (TrainingExecution(memory_format=memory_format) for memory_format in formats):
        try:
            trials.append(_try(build, execution, batch))
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not trials and execution.memory_format == formats[-1]:
                raise
            announce(f"{execution.describe()} is left out, because it failed ({describe_error(error)})")
    return trials


def _compare_compiled(
    build: Callable[[TrainingExecution], Learner],
    execution: TrainingExecution,
    batch: Batch,
    *,
    best: Trial,
    reference: Trial,
    announce: Callable[[str], None],
    remember: Callable[[TrainingExecution], None],
    memory: TrialMemory,
    trials: Sequence[Trial] = (),
    reasons: Sequence[str] = (),
) -> TrainingExecution | None:
    """Compares a compiled network with the fastest execution so far; returns its execution if it is faster.

    Args:
        trials: All trials before, to be announced with it; by default the fastest so far.
        reasons: Reasons to be announced with it.
    """
    compiled, reason = _try_compiled(build, execution, batch, reference=reference)
    fastest = min([best, *compiled], key=lambda trial: trial.step_seconds)
    measured = _describe([*(trials or [best]), *compiled])
    announce(f"a step takes: {measured}; {'; '.join([*reasons, reason])}; taken: {fastest.execution.describe()}")
    if fastest is not best:
        remember(fastest.execution)
        return fastest.execution
    if compiled:
        memory.mark_compiling_slower()
    return None


def _fits(variant: Mapping[str, Any], execution: TrainingExecution) -> bool:
    """Returns whether a variant makes sense: channels first are no other form where everything has them."""
    is_last = execution.memory_format != torch.contiguous_format
    return is_last or "first_convolution" not in variant


def _try_each(
    build: Callable[[TrainingExecution], Learner],
    executions: Sequence[TrainingExecution],
    batch: Batch,
    *,
    reference: Trial,
) -> tuple[list[Trial], list[str]]:
    """Times each execution; returns those that run, and why others do not.

    No other is tried after one that cannot be captured: the reason is nearly always one for all. An execution whose
    losses are not those of the reference is left out: a kernel may be wrong on a card.
    """
    trials: list[Trial] = []
    reasons: list[str] = []
    for execution in executions:
        try:
            trial = _try(build, execution, batch)
            difference = find_difference(trial, reference)
            if difference is None:
                trials.append(trial)
            else:
                reasons.append(difference)
        except NotCapturedError as error:
            reasons.append(f"not captured as a CUDA graph, because {error}")
            break  # PyTorch keeps the memory of every failed capture until the process ends
        except Exception as error:  # whatever a kernel's compiler raises; a graph keeps the memory of a step, too
            reasons.append(f"{execution.describe()} is left out, because that failed ({describe_error(error)})")
        finally:
            gc.collect()  # the memory of a graph
    return trials, list(dict.fromkeys(reasons))


def find_difference(trial: Trial, reference: Trial) -> str | None:
    """Finds the first loss that is not that of the reference, in words; None if there is none."""
    for step, (found, expected) in enumerate(zip(trial.losses, reference.losses, strict=True), start=1):
        tolerance = LOSS_TOLERANCE if step <= BATCHES_OF_A_TRIAL else COURSE_TOLERANCE
        if not math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance):
            losses = f"{found:.4g} instead of {expected:.4g} in step {step}"
            return f"{trial.execution.describe()} is left out, because its loss is {losses}"
    return None


def _list_fused(executions: Sequence[TrainingExecution], batch: Batch) -> list[TrainingExecution]:
    """Lists the executions with channels last once more, with the fused normalization, where it can be had."""
    if not has_fused_normalization():
        return []
    last = CHANNELS_LAST[batch.label_map.ndim - 1]
    return [replace(execution, is_norm_fused=True) for execution in executions if execution.memory_format == last]


def _try_compiled(
    build: Callable[[TrainingExecution], Learner], execution: TrainingExecution, batch: Batch, *, reference: Trial
) -> tuple[list[Trial], str]:
    """Times a compiled network, without a CUDA graph if it cannot be captured; returns what was found, in words."""
    variants = dict.fromkeys((execution, replace(execution, is_captured=False)))
    reasons: list[str] = []
    for variant in variants:
        try:
            trial = _try(build, variant, batch)
            difference = find_difference(trial, reference)
            told = "; ".join([*reasons, difference or "the compiled network is compared"])
            return [trial] if difference is None else [], told
        except NotCapturedError as error:
            reasons.append(f"compiled, it is not captured as a CUDA graph, because {error}")
        except Exception as error:  # whatever the compiler raises, the network can be trained without it
            reasons.append(f"not compiled, because that failed ({describe_error(error)})")
            del error
            break
    gc.collect()  # reference cycles of the compiler hold a network
    return [], "; ".join(reasons)


def _try(build: Callable[[TrainingExecution], Learner], execution: TrainingExecution, batch: Batch) -> Trial:
    """Times steps, the first ones left out.

    Raises:
        NotCapturedError: The steps were to be captured as a CUDA graph and cannot be.
    """
    learner = build(execution)
    _check_capture(learner)
    learner.train()
    torch.manual_seed(0)  # losses are compared; the training sets a seed of its own for every step
    times, losses = [], []
    batches = itertools.cycle((batch, _mirror(batch)))
    for _ in range(WARMING_STEPS + MEASURED_STEPS):
        current = next(batches)
        begin = time.perf_counter()
        losses.append(run_training_step(learner, current))  # returns a loss, and so waits for the device
        times.append(time.perf_counter() - begin)
    _check_capture(learner)
    if execution.is_captured:  # beside the graph, which keeps its memory, there must be room for validation
        learner.train(is_training=False)
        run_validation_step(learner, batch)
    return Trial(execution=execution, step_seconds=median(times[WARMING_STEPS:]), losses=tuple(losses))


def _mirror(batch: Batch) -> Batch:
    """Returns another batch of the same shape: a graph that is replayed must not keep the one it was captured with."""
    return Batch(image=batch.image.flip(-1), label_map=batch.label_map.flip(-1))


def _check_capture(learner: Learner) -> None:
    if learner.graph is not None and learner.graph.problem is not None:
        raise NotCapturedError(learner.graph.problem)
