"""The time budget of a plan, and a check that its network can be trained within it."""

import math
from typing import Final

from autoseg.errors import PlanError
from autoseg.fingerprint import DeviceThroughput, Machine
from autoseg.plan.decisions import Reason
from autoseg.validation_conditions import FEWEST_SHARE
from planners.reasons import format_amount, format_count, format_share

DEFAULT_BUDGET_SECONDS: Final = 1800.0
TRAINING_SHARE: Final = 0.9  # of the budget; the rest is for planning, preprocessing and prediction
SUFFICIENT_ITERATIONS: Final = 1500
"""Measured on Hippocampus, with 16 features: so many give 0.883, at most 0.889 was reached. On retinal vessels 108 give
0.13."""
MEASURED: Final = (
    "on Hippocampus 1,500 iterations with 16 features give a mean Dice of 0.883 and 2,117 with 32 features 0.889, on "
    "retinal vessels 108 give 0.13"
)
CERTAIN_SHARE: Final = 2 / 3  # of the time for training and validation; validation takes at most the rest


def find_budget(machine: Machine) -> float:
    """Returns the seconds that are planned for, from raw images to predictions."""
    return machine.budget_seconds or DEFAULT_BUDGET_SECONDS


def explain_budget(machine: Machine, throughput: DeviceThroughput) -> Reason:
    """Explains how much of the time is for training, and on which computer."""
    stated = "no budget was stated, so 30 minutes are taken" if machine.budget_seconds is None else "as stated"
    rates = ", ".join(
        f"{rate / 1e9:.0f} GFLOP/s at {width}" for width, rate in sorted(throughput.convolution_flops.items())
    )
    device = format_amount(throughput.cores, "core") if throughput.is_cpu else throughput.device
    because = (
        f"{stated}; a tenth is kept for planning and prediction. Measured on {device} in {throughput.number_type}: "
        f"convolutions {rates} channels, {throughput.elementwise_rate / 1e6:.0f} million normalized elements/s"
    )
    if throughput.layer_seconds > 0:
        because += f", {throughput.layer_seconds * 1e3:.2g} ms for each layer, however small"
    because += explain_correction(throughput) + warn_of_disturbance(throughput)
    return Reason(
        subject="budget", value=f"{TRAINING_SHARE * find_budget(machine) / 60:.3g} minutes of training", because=because
    )


def explain_correction(throughput: DeviceThroughput) -> str:
    """Returns that the rates were corrected, and by which steps; nothing where they were not."""
    if throughput.steps is None:
        return ""
    counts = ("one patch", "two")
    timed = " and ".join(
        f"{seconds * 1e3:.3g} ms with {count}" for seconds, count in zip(throughput.steps.seconds, counts, strict=False)
    )
    return (
        f". All are corrected by steps of {throughput.steps.configuration} that were timed as training would execute "
        f"them: {timed}"
    )


def warn_of_disturbance(throughput: DeviceThroughput) -> str:
    """Returns a sentence about a measurement that other programs disturbed; empty for an undisturbed one."""
    if throughput.is_undisturbed:
        return ""
    return (
        f". The measurement got only {format_share(throughput.received_share)} of the time of these cores (other "
        f"programs, or the limit of a container): plan again with --overwrite on an idle computer for more network"
    )


def explain_needed_iterations(
    iterations: int, step_seconds: float, training_seconds: float, *, is_certain: bool = True
) -> Reason:
    """Explains how many iterations the plan needs at least, and for how many there is time.

    Args:
        iterations: Iterations that fit into the whole time of training and validation.
        step_seconds: Duration of a step.
        training_seconds: Time for training and validation.
        is_certain: Whether the duration of a step can be relied on; that of a GPU is estimated from single layers,
            until steps of the plan have been timed, and may be several times too long.

    Raises:
        PlanError: The time certainly holds next to none, even of the smallest network.
    """
    certain = int(CERTAIN_SHARE * iterations)
    enough_seconds = SUFFICIENT_ITERATIONS * step_seconds / (CERTAIN_SHARE * TRAINING_SHARE)
    enough = f"--budget {math.ceil(enough_seconds / 60)}m"
    fit = (
        f"at an estimated {step_seconds:.3g} s each, {training_seconds / 60:.3g} minutes hold "
        f"{format_count(certain)} if validation takes the third of the time that it may take"
    )
    if is_certain and certain < FEWEST_SHARE * SUFFICIENT_ITERATIONS:
        msg = (
            f"this machine is too slow for the budget: even the smallest network needs at least "
            f"{format_count(SUFFICIENT_ITERATIONS)} iterations, and {fit}; plan for more time ({enough} would do), on "
            f"a faster machine, or while nothing else uses this one"
        )
        raise PlanError(msg)
    is_short = certain < SUFFICIENT_ITERATIONS
    return Reason(
        subject="warning: too few iterations" if is_short else "iterations needed",
        value=f"at least {format_count(SUFFICIENT_ITERATIONS)}",
        because=f"{MEASURED}; {fit}" + (f", so expect a poor model: {enough} would do" if is_short else ""),
    )
