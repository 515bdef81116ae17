"""Choice of the fastest execution on a GPU: measured at the start of a training, on real steps, and announced."""

import gc
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, Literal

import torch

from autoseg.document import Document, Part
from autoseg.networks.blocks import CHANNELS_LAST, has_fused_normalization
from autoseg.networks.first_convolution import FORMS, MOST_CHANNELS
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.device import describe_error
from autoseg.runtime.measurement_cache import (
    find_measurement,
    find_measurement_cache,
    read_measurement,
    write_measurement,
)
from autoseg.runtime.precision import DtypeName
from autoseg.training.compiling_beside import CompilingBeside
from autoseg.training.data.batch import Batch
from autoseg.training.data.randomness import BatchKey
from autoseg.training.execution import TrainingExecution, find_execution
from autoseg.training.learner import Learner
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import TrainingOptions
from autoseg.training.step import run_training_step, run_validation_step

WARMING_STEPS: Final = 3  # kernels are chosen, memory is reserved, a network is compiled, a step is captured
MEASURED_STEPS: Final = 5
BATCHES_OF_A_TRIAL: Final = 2
COMPILER: Final = "inductor"
COMPILING_PAYS_SECONDS: Final = 1200.0
"""Training time from which compiling pays. A guess: a U-Net compiles for 1 to 2 minutes and gains 3 % to a quarter."""
COMPILING_AGAIN_PAYS_SECONDS: Final = 120.0
"""The same where compiled code is in the user's cache folder. A guess: it is read within seconds."""
LOSS_TOLERANCE: Final = 0.02
"""Largest difference of the first losses of two executions. Those of 16 bits differ by less than 0.002 (measured on a
CPU); a wrong kernel changes a loss by its size."""
COURSE_TOLERANCE: Final = 0.1
"""The same of the losses after steps on both batches (guess): weights that are rounded differently part slowly."""
SMALLEST_GAIN: Final = 0.02
"""Fraction of a step that a variant must save (guess): timings of the same step differ by about as much."""
VARIANTS_PAY_SECONDS: Final = 120.0
"""Training time from which further executions are tried (guess): each trial takes a second or two."""
COMPILED_STEPS: Final = "compiled_steps"


class StepConditions(Part):
    """The conditions under which compiled code is found again.

    Attributes:
        network: Plan of the network, as JSON.
        device: Name of the device.
    """

    network: str
    patch_voxels: tuple[int, ...]
    batch_size: int
    dtype: DtypeName
    device: str
    torch_version: str


class CompiledStep(Document):
    """The compiled code of a training step is in the user's cache folder.

    Attributes:
        execution: Execution of the step, in words.
    """

    schema_version: Literal[1] = 1
    execution: str


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


def decide_execution(
    build: Callable[[TrainingExecution], Learner],
    make_batch: Callable[[BatchKey], Batch],
    *,
    plan: ConfigurationPlan,
    schedule: Schedule,
    options: TrainingOptions,
    beside: CompilingBeside | None = None,
) -> TrainingExecution:
    """Measures the fastest execution on a GPU, unless measuring would interfere (announced); else the default."""
    usual = find_execution(plan.dimensions, options.device, options.dtype)
    if options.device.type != "cuda":
        return usual
    if options.deterministic or options.process_group.size > 1:
        reason = "results are to repeat themselves" if options.deterministic else "several devices train together"
        options.announce(f"the network is executed {usual.describe()}, not compiled and not measured: {reason}")
        return usual
    epochs = (schedule.end_epoch or plan.training.epochs) - schedule.first_epoch
    stored = find_measurement(find_measurement_cache(COMPILED_STEPS), find_step_conditions(plan, options))
    before = read_measurement(stored, CompiledStep)
    execution = choose_execution(
        build,
        make_batch(BatchKey(stream="training", epoch=0, iteration=0)),
        iterations=epochs * schedule.iterations_per_epoch,
        seconds=math.inf if options.budget is None else options.budget.remaining_seconds,
        announce=options.announce,
        compiler=COMPILER,
        pays_from_seconds=COMPILING_PAYS_SECONDS if before is None else COMPILING_AGAIN_PAYS_SECONDS,
        variants=list_variants(plan, options),
        remember=partial(_remember_compiled, stored),
        # Code that is in the cache is compiled within seconds.
        beside=beside if before is None else None,
    )
    return execution


def _remember_compiled(path: Path, execution: TrainingExecution) -> None:
    write_measurement(path, CompiledStep(execution=execution.describe()), what="whether compiled code is there")


def list_variants(plan: ConfigurationPlan, options: TrainingOptions) -> list[Mapping[str, Any]]:
    """Lists changes of the fastest execution that are worth a trial on a GPU in 16 bits; the compiler has its own."""
    if options.dtype == "float32":
        return []
    has_few_channels = plan.network.input_channels <= MOST_CHANNELS
    variants: list[Mapping[str, Any]] = [{"first_convolution": form} for form in FORMS if has_few_channels]
    if options.is_dtype_free and options.dtype == "bfloat16":
        variants.append({"dtype": "float16"})
    return variants


def find_step_conditions(plan: ConfigurationPlan, options: TrainingOptions) -> StepConditions:
    """Finds what compiled code is made for."""
    device = options.device
    return StepConditions(
        network=plan.network.model_dump_json(),
        patch_voxels=plan.patch_voxels,
        batch_size=plan.training.batch_size,
        dtype=options.dtype,
        device=torch.cuda.get_device_name(device) if torch.cuda.is_available() else device.type,
        torch_version=torch.__version__,
    )


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
    beside: CompilingBeside | None = None,
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
    """
    pays_from_seconds = COMPILING_PAYS_SECONDS if pays_from_seconds is None else pays_from_seconds
    formats = (CHANNELS_LAST[batch.label_map.ndim - 1], torch.contiguous_format)
    trials = _try_formats(build, formats, batch, announce)
    candidates = [trial.execution for trial in trials]
    candidates += _list_fused(candidates, batch)
    captured, reasons = _try_each(
        build, [replace(each, is_captured=True) for each in candidates], batch, reference=trials[0]
    )
    trials += captured
    best = min(trials, key=lambda trial: trial.step_seconds)
    for variant in variants if min(seconds, iterations * best.step_seconds) >= VARIANTS_PAY_SECONDS else ():
        if _fits(variant, best.execution):
            tried, why = _try_each(build, [replace(best.execution, **variant)], batch, reference=trials[0])
            faster = [trial for trial in tried if trial.step_seconds <= (1 - SMALLEST_GAIN) * best.step_seconds]
            slower = [f"{trial.describe()} is not worth it" for trial in tried if trial not in faster]
            trials, reasons = [*trials, *faster], [*reasons, *why, *slower]
            best = min(trials, key=lambda trial: trial.step_seconds)
    if min(seconds, iterations * best.step_seconds) < pays_from_seconds:
        reasons += [f"not compiled, which pays from {pays_from_seconds / 60:.0f} minutes of training on"]
    else:
        # The compiler fuses normalization and activation by itself.
        plain = replace(best.execution, compiler=compiler, is_norm_fused=False)
        compare = partial(
            _compare_compiled, build, plain, batch, best=best, reference=trials[0], announce=announce, remember=remember
        )
        if beside is not None and beside.has_room():
            beside.start(plain, compare)
            reasons += ["it is compiled beside the first epochs, and compared then"]
        else:
            announce("compiling the network, to see whether it is faster then (takes a minute or two)")
            compiled, reason = _try_compiled(build, plain, batch, reference=trials[0])
            trials, reasons = [*trials, *compiled], [*reasons, reason]
    best = min(trials, key=lambda trial: trial.step_seconds)
    if best.execution.compiler is not None:
        remember(best.execution)
    measured = ", ".join(trial.describe() for trial in trials)
    announce(f"a step takes: {measured}; {'; '.join(reasons)}; taken: {best.execution.describe()}")
    return best.execution


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
) -> TrainingExecution | None:
    """Compares a compiled network with the fastest execution so far; returns its execution if it is faster."""
    trials, reason = _try_compiled(build, execution, batch, reference=reference)
    fastest = min([best, *trials], key=lambda trial: trial.step_seconds)
    measured = ", ".join(trial.describe() for trial in (best, *trials))
    announce(f"a step takes: {measured}; {reason}; taken: {fastest.execution.describe()}")
    if fastest is best:
        return None
    remember(fastest.execution)
    return fastest.execution


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
        except RuntimeError as error:  # torch.OutOfMemoryError is one: a graph keeps the memory of a step
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
