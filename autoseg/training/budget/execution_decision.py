"""Decides how a training executes its network: measured, remembered, or the usual way."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from autoseg.networks.first_convolution import FORMS, MOST_CHANNELS
from autoseg.plan.document import ConfigurationPlan
from autoseg.runtime.measurement_cache import (
    find_measurement,
    find_measurement_cache,
    read_measurement,
    write_measurement,
)
from autoseg.training.budget.remembered_trials import (
    CompiledStep,
    StoredExecution,
    find_step_conditions,
    find_trial_memory,
)
from autoseg.training.compiling_beside import CompilingBeside
from autoseg.training.data.batch import Batch
from autoseg.training.data.randomness import BatchKey
from autoseg.training.execution import TrainingExecution, find_execution
from autoseg.training.execution_choice import COMPILER, choose_execution
from autoseg.training.learner import Learner
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import TrainingOptions

COMPILED_STEPS: Final = "compiled_steps"
COMPILING_AGAIN_PAYS_SECONDS: Final = 120.0
"""Training time from which compiling pays where compiled code is in the user's cache folder. A guess: it is read within
seconds."""


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
    if options.device.type != "cuda":
        return find_execution(plan, options.device, options.dtype)
    if options.deterministic or options.process_group.size > 1:
        usual = find_execution(plan, options.device, options.dtype)
        # All processes must take the same.
        usual = options.process_group.share(StoredExecution.store(usual)).restore(plan.dimensions)
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
        pays_from_seconds=None if before is None else COMPILING_AGAIN_PAYS_SECONDS,
        variants=list_variants(plan, options),
        remember=partial(_remember_compiled, stored),
        # Code that is in the cache is compiled within seconds.
        beside=beside if before is None else None,
        memory=find_trial_memory(plan, options),
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
