import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from autoseg.cli.terminal.console import Console
from autoseg.cli.terminal.forecast_table import format_about, format_bytes, print_forecast, suggest_next
from autoseg.network_cost import StepCost
from autoseg.workflows.plan.forecasting import ConfigurationForecast, RunForecast
from autoseg.workflows.plan.machine_survey import MachineSurvey

DAY = 86_400.0
RUN = Path("x.autoseg")
COST = StepCost(iteration_seconds=14.2, validation_seconds=4.0, window_seconds=1.0, memory_bytes=3 * 10**9)
MONTHS = ConfigurationForecast(
    name="3d_cascade_fullres",
    cost=COST,
    is_budgeted=False,
    training_seconds=100 * DAY,
    validation_seconds=300.0,
    preparation_seconds=0.0,
    models_bytes=240_000_000,
    passing_bytes=250_000_000,
    prediction_bytes=1_000_000,
)
MINUTES = replace(MONTHS, name="2d", training_seconds=600.0)
LITE = replace(MINUTES, is_budgeted=True)
PROCESSOR = MachineSurvey(
    device="AMD EPYC, 2 cores", has_gpu=False, memory_bytes=25 * 10**9, costs={"2d": COST}, how="measured"
)
GPU = replace(PROCESSOR, device="NVIDIA H100", has_gpu=True)


def make(*entries, survey=PROCESSOR):
    return RunForecast(
        survey=survey, configurations=entries, folds=5, written_bytes=55_000_000, missing_bytes=1_200_000_000
    )


def show(forecast):
    output = io.StringIO()
    print_forecast(Console(RichConsole(file=output, width=80)), forecast, RUN)
    return output.getvalue()


def test_months_on_a_cpu_are_told_with_what_helps():
    text = show(make(MONTHS))
    assert "3.3 months" in text
    assert "16 months" in text
    assert "one fold takes 3.3 months" in text
    assert "--planner timed --budget 30m" in text
    assert "a computer with a GPU" in text
    assert "autoseg train x.autoseg --budget 8h" in text
    assert "GPU: none here, so the time on a GPU is unknown" in text


def test_another_plan_is_suggested_with_the_options_of_this_one():
    console = RichConsole(file=io.StringIO(), width=80)
    print_forecast(Console(console), make(MONTHS), RUN, options="--architecture unext --loss tversky+focal")
    expected = "--planner timed --budget 30m --run ANOTHER_FOLDER --architecture unext --loss tversky+focal"
    assert expected in console.file.getvalue().splitlines()[-3]


def test_no_budget_is_suggested_that_training_would_refuse():
    slow = replace(MONTHS, least_budget_seconds=10 * 3600.0)
    assert "autoseg train x.autoseg --budget 15h" in show(make(slow, MINUTES))


def test_configurations_are_added_up():
    text = show(make(MONTHS, MINUTES))
    (line,) = [line for line in text.splitlines() if "in all" in line]
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells == ["in all", "3.3 months", "16 months", "3 GB", "482 MB", "2.4 GB"]


def test_everything_is_readable_in_80_columns():
    lines = show(make(MONTHS, MINUTES)).splitlines()
    commands = [line for line in lines if line.startswith("  - ")]  # they are copied, so they are not divided
    assert len(commands) == 3
    assert max(len(line) for line in lines if line not in commands) <= 80
    assert not any("…" in line for line in lines)


def test_short_trainings_need_no_help():
    text = show(make(MINUTES))
    assert "What helps" not in text
    assert "15 min" in text


def test_a_plan_with_a_budget_is_not_one_for_a_gpu():
    text = show(make(LITE))
    assert "budget" in text
    assert "GPU: none here" not in text
    assert "What helps" not in text


def test_on_a_gpu_nothing_is_said_of_cpus():
    text = show(make(MONTHS, survey=GPU))
    assert "NVIDIA H100" in text
    assert "no GPU" not in text
    assert "What helps" not in text


def test_disk_tells_what_exists_what_will_and_what_passes():
    text = " ".join(show(make(MINUTES)).split())
    assert "preprocessed data 55 MB, up to 1.2 GB more that preprocessing writes, 250 MB while a fold" in text


def test_a_plan_that_does_not_fit_into_memory_is_warned_of():
    small = replace(PROCESSOR, memory_bytes=2 * 10**9)
    text = " ".join(show(make(MINUTES, survey=small)).split())
    assert "warning: 2d needs about 3 GB of memory and AMD EPYC, 2 cores has 2 GB: it cannot be trained here" in text
    assert "warning" not in show(make(MINUTES))


def test_unknown_times_are_said_to_be_unknown_with_the_reason():
    unknown = replace(MINUTES, cost=None, training_seconds=None, validation_seconds=None)
    reason = "the speed of the CPU could not be measured (no torch)"
    survey = replace(PROCESSOR, costs={}, problems={"2d": reason}, how=reason)
    text = show(make(unknown, survey=survey))
    assert text.count("unknown") >= 3
    assert " ".join(text.split()).count(reason) == 1


def test_a_configuration_that_fails_on_a_gpu_is_warned_of():
    unknown = replace(MONTHS, cost=None, training_seconds=None, validation_seconds=None)
    survey = replace(GPU, problems={"3d_cascade_fullres": "it does not fit"})
    text = show(make(unknown, MINUTES, survey=survey))
    assert "warning: it does not fit" in text
    assert "unknown" in text


@pytest.mark.parametrize(
    ("entry", "command"),
    [
        (MINUTES, "autoseg train x.autoseg"),
        (replace(MINUTES, training_seconds=3600.0), "autoseg train x.autoseg --fold 0"),
        (MONTHS, "autoseg train x.autoseg --fold 0"),
        (replace(MINUTES, training_seconds=None), "autoseg train x.autoseg --fold 0"),
    ],
)
def test_one_fold_comes_first_where_all_take_hours(entry, command):
    assert suggest_next(make(entry), RUN) == command


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (40, "40 s"),
        (89, "89 s"),
        (1620, "27 min"),
        (7100, "118 min"),
        (3 * 3600, "3 h"),
        (47 * 3600, "47 h"),
        (2 * DAY, "2 days"),
        (60 * DAY, "60 days"),
        (70 * DAY, "2.3 months"),
        (900 * DAY, "2.5 years"),
    ],
)
def test_durations_are_coarse(seconds, text):
    assert format_about(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(10, "1 MB"), (55e6, "55 MB"), (9.6e8, "1 GB"), (2.34e9, "2.3 GB"), (25e9, "25 GB")]
)
def test_sizes_have_two_digits(size, text):
    assert format_bytes(size) == text
