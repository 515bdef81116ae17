import dataclasses
import json
import typing
from pathlib import Path

import pytest
import typer.main
from builders.folds import finish_fold
from builders.labels import build_labels
from builders.progress import Notes

from autoseg.cli.app import app
from autoseg.document import read_document, write_document
from autoseg.errors import OptionError, PlanError, RunError, TrainingError
from autoseg.plan import Plan
from autoseg.run_folder import make_folder
from autoseg.training.options import Length
from autoseg.validation_conditions import ValidationConditions
from autoseg.workflows.exchange.request import ExportRequest, ImportRequest
from autoseg.workflows.predict.prediction import PredictionRequest
from autoseg.workflows.select.request import SelectionRequest
from autoseg.workflows.synthesize.request import SynthesisRequest
from autoseg.workflows.train import units as training_units
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.training import train_run
from autoseg.workflows.train.units import Unit, is_up_to_date, limit_request, list_arguments, list_units

CASCADE = "3d_cascade_fullres"


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def preprocessed(run, monkeypatch):
    """The run, as if all cases of 2d and 3d_lowres were preprocessed, but not those of 3d_fullres."""
    monkeypatch.setattr(training_units, "check_preprocessed", lambda run, plan, configuration, names: None)
    for name in ("2d", "3d_lowres"):
        make_folder(run.preprocessed(name))
    return run


def list_names(units):
    return [(unit.configuration, unit.fold) for unit in units]


def test_everything_planned_is_trained_fold_by_fold(preprocessed, notes):
    units = list_units(preprocessed.root, TrainingRequest(), progress=notes)
    names = list_names(units)
    assert names[:4] == [("2d", "0"), ("2d", "1"), ("3d_lowres", "0"), ("3d_lowres", "1")]
    assert [unit.cases for unit in units[:2]] == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    "kind", [TrainingRequest, PredictionRequest, SelectionRequest, SynthesisRequest, ImportRequest, ExportRequest]
)
@pytest.mark.parametrize(
    ("given", "named"), [(0, ("0",)), ("all", ("all",)), ([0, "1"], ("0", "1")), ((), ()), (None, None)]
)
def test_folds_are_named_by_one_name_or_number_or_several(kind, given, named):
    request = kind()
    object.__setattr__(request, "folds", given)  # types of arguments are checked while tests run, not in scripts
    request.__post_init__()
    assert request.folds == named


def test_a_copy_of_what_predicts_is_not_trained_and_what_it_lacks_is_said(run, notes):
    run.splits.unlink()
    for train in (
        lambda: list_units(run.root, TrainingRequest(), progress=notes),
        lambda: [*train_run(run.root, TrainingRequest(configuration="2d", device="cpu"), progress=notes)],
    ):
        with pytest.raises(RunError, match=r"lacks splits.json.* copy the whole run.*references and preprocessed"):
            train()


def test_regions_in_a_wrong_order_are_a_warning_for_a_run_that_exists(preprocessed, notes):
    plan = read_document(preprocessed.plan, Plan)
    only = plan.configurations["2d"]
    labels = build_labels({"core": (2,), "whole": (1, 2)}, region_write_values=(2, 1))
    write_document(preprocessed.plan, plan.model_copy(update={"labels": labels, "configurations": {"2d": only}}))
    list_units(preprocessed.root, TrainingRequest(), progress=notes)
    assert "2 (core, whole) is written as 1 (whole)" in notes.text


def test_a_second_stage_comes_after_the_first_and_names_it(preprocessed, notes):
    make_folder(preprocessed.preprocessed("3d_fullres"))
    units = list_units(preprocessed.root, TrainingRequest(folds=("0",)), progress=notes)
    assert list_names(units) == [("2d", "0"), ("3d_lowres", "0"), ("3d_lowres", "1"), ("3d_cascade_fullres", "0")]
    assert [unit.needs for unit in units] == [None, None, None, "3d_lowres"]
    both = list_names(list_units(preprocessed.root, TrainingRequest(configuration=CASCADE), progress=notes))
    assert both == [("3d_lowres", "0"), ("3d_lowres", "1"), (CASCADE, "0"), (CASCADE, "1")]


def test_what_the_queue_starts_is_a_single_training_also_for_a_second_stage(preprocessed, notes):
    make_folder(preprocessed.preprocessed("3d_fullres"))
    for unit in list_units(preprocessed.root, TrainingRequest(), progress=notes):
        request = TrainingRequest(configuration=unit.configuration, folds=(unit.fold,))
        assert list_names(list_units(preprocessed.root, request, progress=notes)) == [(unit.configuration, unit.fold)]


def test_what_is_not_preprocessed_is_left_out_with_a_note_unless_it_was_asked_for(run, notes, monkeypatch):
    with pytest.raises(TrainingError, match=r"(?s)no configuration of .* can be trained.*autoseg preprocess"):
        list_units(run.root, TrainingRequest(), progress=notes)
    with pytest.raises(RunError, match="4 of 4 cases are not preprocessed for 2d"):
        list_units(run.root, TrainingRequest(configuration="2d"), progress=notes)
    monkeypatch.setattr(training_units, "check_preprocessed", lambda run, plan, configuration, names: None)
    make_folder(run.preprocessed("3d_lowres"))
    units = list_units(run.root, TrainingRequest(), progress=notes)
    assert list_names(units) == [("3d_lowres", "0"), ("3d_lowres", "1")]
    assert any("autoseg preprocess" in text and text.startswith("2d is left out") for text in notes.lines)


def test_what_is_half_preprocessed_is_an_error(run, notes):
    make_folder(run.preprocessed("2d"))
    with pytest.raises(RunError, match="not preprocessed"):
        list_units(run.root, TrainingRequest(), progress=notes)


def test_configuration_and_fold_restrict(preprocessed, notes):
    request = TrainingRequest(configuration="2d", folds=("1", "all"))
    assert list_names(list_units(preprocessed.root, request, progress=notes)) == [("2d", "1"), ("2d", "all")]
    with pytest.raises(TrainingError, match="must be one of 0, 1 or all"):
        list_units(preprocessed.root, TrainingRequest(folds=("7",)), progress=notes)
    with pytest.raises(PlanError, match="no configuration '4d'"):
        list_units(preprocessed.root, TrainingRequest(configuration="4d"), progress=notes)


FULL = TrainingRequest(
    configuration="2d",
    folds=("0",),
    length=Length(epochs=3, until_plateau=True),
    device="cpu",
    precision="bfloat16",
    seed=7,
    initial_weights=Path("small.autoseg"),
    synthetic=True,
    teacher=Path("teacher.autoseg"),
    restart=True,
    workers=3,
    deterministic=True,
    log_to=("mlflow", "wandb"),
    parallel=True,
    nodes=2,
)
EXTENDED = TrainingRequest(length=Length(more_epochs=2), budget_seconds=90.0)
DECIDED_BY_QUEUE = {
    *("--configuration", "--fold", "--device", "--devices", "--workers", "--parallel"),
    *("--on", "--nodes", "--slurm", "--dry-run"),
}


def test_every_option_of_a_training_reaches_the_processes_of_the_queue():
    (command,) = (command for name, command in typer.main.get_command(app).commands.items() if name == "train")
    flags = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    arguments = [*list_arguments(FULL), *list_arguments(EXTENDED)]
    assert {word for word in arguments if word.startswith("--")} == flags - DECIDED_BY_QUEUE - {"--help"}
    assert arguments[arguments.index("--budget") + 1] == "90.000s"
    assert json.dumps(arguments).count("--log-to") == 2


def test_the_requests_of_that_test_leave_nothing_out():
    usual = TrainingRequest()
    for name in typing.get_type_hints(TrainingRequest):
        assert {getattr(FULL, name), getattr(EXTENDED, name)} != {getattr(usual, name)}
    lengths = [dataclasses.asdict(request.length) for request in (FULL, EXTENDED)]
    assert {name for length in lengths for name, value in length.items() if value} == set(lengths[0])


@pytest.mark.parametrize(
    ("length", "budget_seconds", "told"),
    [
        (Length(epochs=3), 60.0, "--budget and --epochs"),
        (Length(until_plateau=True), 60.0, "--budget and --until-plateau"),
        (Length(epochs=3, more_epochs=2), None, "--extend and --epochs"),
        (Length(until_plateau=True, more_epochs=2), None, "--extend and --until-plateau"),
    ],
)
def test_two_lengths_at_once_are_refused(length, budget_seconds, told):
    with pytest.raises(OptionError, match=f"{told} both say how long to train; give one of them"):
        TrainingRequest(length=length, budget_seconds=budget_seconds)


def test_a_first_stage_that_was_not_named_begins_with_those_weights_alone_that_a_run_has_for_it(tmp_path):
    stage, named = (
        Unit(configuration=name, fold="0", cases=(), is_only_needed=is_needed)
        for name, is_needed in (("3d_lowres", True), (CASCADE, False))
    )
    checkpoint = tmp_path / "checkpoint_final.safetensors"
    for source, expected in ((checkpoint, None), (tmp_path, tmp_path)):
        request = TrainingRequest(initial_weights=source, restart=True, synthetic=True)
        assert limit_request(request, stage).initial_weights == expected
        assert not limit_request(request, stage).restart
        assert not limit_request(request, stage).synthetic
        assert limit_request(request, named) == request


def test_what_was_not_asked_for_is_not_passed_on():
    assert list_arguments(TrainingRequest()) == ["--precision", "auto"]


@pytest.mark.parametrize(
    ("planned_seconds", "budget_seconds", "is_done"),
    [(None, None, False), (None, 900.0, False), (216.0, None, True), (216.0, 900.0, False)],
)
def test_a_limited_validation_is_made_whole_unless_the_budget_of_the_plan_holds(
    run, planned_seconds, *, budget_seconds, is_done
):
    plan = read_document(run.plan, Plan)
    part = plan.configurations["2d"]
    training = part.training.model_copy(update={"budget_seconds": planned_seconds})
    changed = part.model_copy(update={"training": training})
    write_document(run.plan, plan.model_copy(update={"configurations": {**plan.configurations, "2d": changed}}))
    limited = ValidationConditions(
        validated_cases=1, held_out_cases=2, trained_iterations=40, sufficient_iterations=None
    )
    finish_fold(run, "2d", "0", cases=("a",), validation=limited)
    unit = Unit(configuration="2d", fold="0", cases=("a", "b"))
    assert is_up_to_date(run, unit, TrainingRequest(budget_seconds=budget_seconds)) == is_done
    finish_fold(run, "2d", "0")
    assert is_up_to_date(run, unit, TrainingRequest(budget_seconds=budget_seconds))
