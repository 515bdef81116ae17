"""What `autoseg plan` says at its end about this computer."""

import subprocess
import sys

import pytest
from builders.balls import write_balls
from builders.command_line import run_autoseg

from autoseg.fingerprint import DeviceThroughput
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.workflows.plan.host_speed import find_host_speed

SLOW = DeviceThroughput(
    cores=2, memory_gb=25.0, number_type="float32", convolution_flops={16: 1e10}, elementwise_rate=1e8
)


@pytest.fixture
def balls(tmp_path):
    return write_balls(tmp_path / "Dataset001_Balls", cases=5)


def run_without_torch(*arguments):
    """What the command does where torch cannot be loaded."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        f"sys.argv = ['autoseg', *{[str(argument) for argument in arguments]!r}]\n"
        "from autoseg.cli.app import main\n"
        "main()\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.fixture
def slow_computer(tmp_path, monkeypatch):
    """Its speed was measured earlier."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    find_host_speed(find_measurement_cache("host_speed"), measure=lambda: SLOW)


@pytest.mark.usefixtures("slow_computer")
def test_the_forecast_comes_without_torch_once_the_computer_is_measured(balls, tmp_path):
    run = tmp_path / "balls.autoseg"
    done = run_without_torch("plan", balls, "--run", run, "--no-preprocess", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "Forecast for this computer" in done.stdout
    assert "This plan is for a GPU" in done.stdout
    assert "more that preprocessing writes" in " ".join(done.stdout.split())
    assert f"next: autoseg preprocess {run}, then autoseg train {run} --fold 0" in done.stdout
    again = run_without_torch("plan", balls, "--run", run, "--workers", 1)
    assert again.stdout.count("had been planned before") == 1
    assert "Forecast for this computer" in again.stdout
    assert "preprocessed data" in again.stdout
    assert f"next: autoseg train {run} --fold 0\n" in again.stdout


def test_where_nothing_can_be_measured_the_plan_is_made_all_the_same(balls, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    run = tmp_path / "balls.autoseg"
    done = run_without_torch("plan", balls, "--run", run, "--no-preprocess", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert (run / "plan.json").is_file()
    assert "the speed of the CPU could not be measured" in " ".join(done.stdout.split())
    assert "unknown" in done.stdout


@pytest.mark.usefixtures("slow_computer")
def test_only_the_configuration_that_is_preprocessed_is_forecast(balls, tmp_path):
    done = run_without_torch("plan", balls, "--run", tmp_path / "r", "--configuration", "2d", "--workers", 1)
    assert done.returncode == 0, done.stderr
    forecast = done.stdout.partition("Forecast for this computer")[2]
    assert "│ 2d" in forecast
    assert "3d_fullres" not in forecast


@pytest.mark.slow
def test_a_computer_is_measured_when_it_plans_for_the_first_time(balls, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = run_autoseg("plan", balls, "--run", tmp_path / "r", "--workers", 1)
    assert done.code == 0, done.err
    assert "An iteration: 2d" in " ".join(done.out.split())


def test_a_plan_by_time_needs_no_other_measurement_and_names_its_budget(balls, tmp_path):
    done = run_autoseg("plan", balls, "--run", tmp_path / "r", "--planner", "lite", "--budget", "10m", "--workers", 1)
    assert done.code == 0, done.err
    assert "time: the plan's budget" in done.out
    assert "9 min" in done.out
    assert f"next: autoseg train {tmp_path / 'r'}\n" in done.out
