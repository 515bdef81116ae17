import os

import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.networks import build_small_network_plan

from autoseg.cli.terminal.forecast_table import list_remarks
from autoseg.dataset.folds import Splits
from autoseg.document import read_document, write_document
from autoseg.errors import RunError
from autoseg.fingerprint import Fingerprint
from autoseg.network_cost import StepCost, count_checkpoint_bytes
from autoseg.plan import Plan
from autoseg.plan.augmentation import MirrorPlan
from autoseg.plan.objectives import PlausibilityPlan
from autoseg.run_folder import write_text
from autoseg.workflows.plan import forecasting
from autoseg.workflows.plan.forecasting import (
    count_windows,
    forecast_cpu_seconds,
    forecast_run,
    list_trained,
    measure_folder,
)
from autoseg.workflows.plan.machine_survey import MachineSurvey
from autoseg.workflows.plan.planning import find_network_cost
from autoseg.workflows.plan.preprocessing import extract_recipe

COST = StepCost(iteration_seconds=2.0, validation_seconds=0.5, window_seconds=0.1, memory_bytes=10**9)
TRAINING_SECONDS = 10 * (4 * 2.0 + 1 * 0.5)  # epochs and iterations of the plan


@pytest.fixture
def planned(run):
    """Four cases: three as large as the patch of 8 x 8 x 8, and one of twice its length."""
    plan = read_document(run.plan, Plan)
    shapes = {"a": (8, 8, 8), "b": (8, 8, 8), "c": (8, 8, 8), "d": (16, 8, 8)}
    cases = tuple(build_case(shape=shape, name=name) for name, shape in shapes.items())
    write_document(run.fingerprint, build_fingerprint((1.0, 1.0, 1.0), (8, 8, 8), labels=plan.labels, cases=cases))
    return run


def edit(run, name, **training):
    plan = read_document(run.plan, Plan)
    chosen = plan.configurations[name]
    changed = chosen.model_copy(update={"training": chosen.training.model_copy(update=training)})
    write_document(run.plan, plan.model_copy(update={"configurations": plan.configurations | {name: changed}}))


def survey(costs=None):
    def find(plan, names):
        known = dict.fromkeys(names, COST) if costs is None else costs
        return MachineSurvey(device="a CPU", has_gpu=False, memory_bytes=2 * 10**9, costs=known, how="said")

    return find


def forecast(run, *names, costs=None):
    return forecast_run(run.root, configurations=names, survey=survey(costs), measure_cost=find_network_cost)


def select(result, name):
    return next(entry for entry in result.configurations if entry.name == name)


def test_a_fold_takes_its_epochs_and_the_windows_of_its_held_out_cases(planned):
    result = forecast(planned, "3d_lowres")
    (entry,) = result.configurations
    windows = 3 * 1 + 3  # half a patch apart
    assert entry.training_seconds == pytest.approx(TRAINING_SECONDS)
    assert entry.validation_seconds == pytest.approx(windows * 0.1 / 2)
    assert result.fold_seconds == pytest.approx(TRAINING_SECONDS + 0.3)
    assert result.total_seconds == pytest.approx(2 * (TRAINING_SECONDS + 0.3))


def test_a_fold_on_the_cpu_is_forecast_only_from_what_was_measured_before(planned, monkeypatch):
    plan, costs = read_document(planned.plan, Plan), {"3d_lowres": COST}

    def find_measured(plan, names, *, measure, **options):
        if not costs:
            with pytest.raises(RunError, match="not measured"):
                measure()
        return survey(costs)(plan, names)

    monkeypatch.setattr(forecasting, "survey_cpu", find_measured)
    options = {"estimate": print, "measure_cost": find_network_cost}
    assert forecast_cpu_seconds(planned, plan, "3d_lowres", None, **options) == pytest.approx(TRAINING_SECONDS + 0.3)
    assert forecast_cpu_seconds(planned, plan, "3d_lowres", 1, **options) == pytest.approx(TRAINING_SECONDS / 10 + 0.3)
    costs.clear()
    assert forecast_cpu_seconds(planned, plan, "3d_lowres", None, **options) is None


def add_autoencoder(run, name):
    """Adds one that is trained in three iterations of an epoch, as the plan of its training says; returns its plan."""
    autoencoder = build_small_network_plan("label_autoencoder", 3, input_channels=2, output_channels=2)
    edit(run, name, plausibility=PlausibilityPlan(autoencoder=autoencoder, autoencoder_iterations=3))
    return autoencoder


def test_a_label_autoencoder_is_trained_before_and_adds_its_time_memory_and_files(planned):
    (plain,) = forecast(planned, "3d_lowres").configurations
    autoencoder = add_autoencoder(planned, "3d_lowres")
    own = COST.model_copy(update={"iteration_seconds": 7.0, "memory_bytes": 3 * 10**9})
    costs = {"3d_lowres": COST, "3d_lowres, label autoencoder": own}
    result = forecast(planned, "3d_lowres", costs=costs)
    (entry,) = result.configurations
    seconds = 3 * 7.0 + 5 * 0.5  # with five iterations of validation
    assert entry.autoencoder_seconds == pytest.approx(seconds)
    assert entry.fold_seconds == pytest.approx(plain.fold_seconds + seconds)
    assert entry.cost.memory_bytes == 3 * 10**9
    parameters = find_network_cost(autoencoder, (8, 8, 8), 1).parameter_count
    assert entry.models_bytes == plain.models_bytes + 2 * 2 * 4 * parameters
    assert entry.passing_bytes == plain.passing_bytes
    assert "so is its label autoencoder, which is trained before (3d_lowres 24 s)" in " ".join(list_remarks(result))
    edit(planned, "3d_lowres", budget_seconds=60.0)
    result = forecast(planned, "3d_lowres", costs=costs)
    assert result.fold_seconds == 60.0
    assert "keep to, and its label autoencoder to a fifth of it" in " ".join(list_remarks(result))


def test_the_time_of_a_job_on_a_cpu_holds_that_of_the_label_autoencoder(planned, monkeypatch):
    add_autoencoder(planned, "3d_lowres")
    plan = read_document(planned.plan, Plan)
    monkeypatch.setattr(forecasting, "survey_cpu", lambda plan, names, **options: survey()(plan, names))
    found = forecast_cpu_seconds(planned, plan, "3d_lowres", None, estimate=print, measure_cost=find_network_cost)
    assert found == pytest.approx(TRAINING_SECONDS + 0.3 + 3 * 2.0 + 5 * 0.5)


def test_slices_and_mirrored_views_are_windows_of_their_own(planned):
    edit(planned, "2d", transforms=(MirrorPlan(axes=(0, 1)),))
    plan, splits = read_document(planned.plan, Plan), read_document(planned.splits, Splits)
    fingerprint = read_document(planned.fingerprint, Fingerprint)
    assert count_windows(plan, "2d", fingerprint, splits) == 4 * (3 * 8 + 16)


def test_all_configurations_are_added_up_and_a_cascade_waits_for_its_first_stage(planned):
    result = forecast(planned)
    cascade = select(result, "3d_cascade_fullres")
    assert cascade.preparation_seconds == pytest.approx(0.6)  # the first stage predicts all four cases
    assert result.compute_total(cascade) == pytest.approx(2 * cascade.fold_seconds + 0.6)
    assert result.total_seconds == pytest.approx(sum(result.compute_total(each) for each in result.configurations))


def test_a_budget_is_the_time_of_a_fold_validation_included(planned):
    edit(planned, "3d_lowres", budget_seconds=60.0)
    (entry,) = forecast(planned, "3d_lowres", costs={}).configurations
    assert entry.is_budgeted
    assert entry.fold_seconds == 60.0


def test_the_least_budget_holds_a_tenth_of_the_needed_iterations_and_the_validation(planned):
    assert forecast(planned, "3d_lowres").configurations[0].least_budget_seconds == 0.0  # the plan does not tell
    edit(planned, "3d_lowres", sufficient_iterations=2000)
    (entry,) = forecast(planned, "3d_lowres").configurations
    assert entry.least_budget_seconds == pytest.approx(200 * 2.0 * 3 / 2)


def test_unknown_costs_make_unknown_times_and_no_sum(planned):
    result = forecast(planned, costs={"2d": COST})
    assert select(result, "2d").fold_seconds is not None
    assert select(result, "3d_lowres").fold_seconds is None
    assert result.total_seconds is None


def test_what_is_trained_brings_its_first_stage(planned):
    plan = read_document(planned.plan, Plan)
    assert list_trained(plan, ["3d_cascade_fullres"]) == ("3d_cascade_fullres", "3d_lowres")
    assert list_trained(plan, []) == tuple(plan.configurations)


def test_disk_holds_checkpoints_and_predictions_like_the_references(planned):
    write_text(planned.references / "a.nii.gz", "x" * 300)
    write_text(planned.references / "b.nii.gz", "x" * 100)
    result = forecast(planned, "2d")
    (entry,) = result.configurations
    configuration = read_document(planned.plan, Plan).configurations["2d"]
    network = find_network_cost(configuration.network, configuration.patch_voxels, 1)
    kept, passing = count_checkpoint_bytes(configuration, network.parameter_count)
    assert entry.fold_bytes == kept + 200
    assert result.passing_bytes == passing


def test_preprocessed_data_is_what_exists_and_at_most_what_the_missing_cases_hold(planned):
    voxels = {"a": 8**3, "b": 8**3, "c": 8**3, "d": 2 * 8**3}
    everything = (4 + 2) * sum(voxels.values())
    assert (forecast(planned, "2d").written_bytes, forecast(planned, "2d").missing_bytes) == (0, everything)
    plan = read_document(planned.plan, Plan)
    write_document(planned.recipe("2d"), extract_recipe(plan, "2d"))
    for ending in ("image.b2nd", "labels.b2nd", "locations.npy", "json"):
        write_text(planned.preprocessed("2d") / f"d.{ending}", "x" * 10)
    result = forecast(planned, "2d")
    assert (result.written_bytes, result.missing_bytes) == (40, everything - 6 * voxels["d"])
    both = forecast(planned, "2d", "3d_lowres")
    assert both.missing_bytes == result.missing_bytes + everything


def test_data_of_another_plan_will_be_made_again(planned):
    for ending in ("image.b2nd", "labels.b2nd", "locations.npy", "json"):
        write_text(planned.preprocessed("2d") / f"d.{ending}", "x" * 10)
    assert forecast(planned, "2d").written_bytes == 0


def test_files_with_two_names_count_once(tmp_path):
    write_text(tmp_path / "a" / "x", "x" * 100)
    (tmp_path / "b").mkdir()
    os.link(tmp_path / "a" / "x", tmp_path / "b" / "x")
    assert measure_folder(tmp_path / "a") + measure_folder(tmp_path / "b") == 100
    assert measure_folder(tmp_path / "none") == 0
