"""What a person sees at a prompt or in a notebook: names on Tab, and one line where an object is printed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from rlcompleter import Completer

import pytest
from builders.evaluations import build_class_metrics, summarize
from builders.folds import write_trained_fold
from builders.labels import build_labels
from builders.plans import build_configuration, build_plan
from builders.selections import build_selection

import autoseg
from autoseg.evaluation import CaseEvaluation
from autoseg.postprocessing.rules import LargestComponent
from autoseg.run_folder import FoldFolder
from autoseg.workflows.exchange.request import ExchangedModel
from autoseg.workflows.predict.prediction import PredictionOutcome
from autoseg.workflows.select.selection_document import Member
from autoseg.workflows.train.job import TrainedFold
from planners import PLANNERS

ONE_LINE = 400  # characters: what a notebook shows without scrolling
MANY = 118  # classes of a large dataset


@pytest.fixture
def run(tmp_path):
    for fold in ("0", "1"):
        plan = build_plan({"3d_fullres": build_configuration((8, 8, 8)), "2d": build_configuration((8, 8))})
        write_trained_fold(tmp_path, plan, "3d_fullres", fold=fold)
    return tmp_path


@pytest.fixture
def summary():
    labels = build_labels({f"organ {index}": (index,) for index in range(1, MANY + 1)})
    undefined = dict.fromkeys(("hd95_mm", "volume_difference_ml", "relative_volume_difference"))
    metrics = build_class_metrics(dice=0.90001, iou=0.8, **undefined)
    cases = [
        CaseEvaluation(case=name, prediction_file="", reference_file="", metrics=(metrics,) * MANY)
        for name in ("one", "two")
    ]
    return summarize(cases, labels=labels, tolerance_mm=1.0)


def test_tab_offers_the_public_names_and_nothing_else():
    assert dir(autoseg) == sorted(autoseg.__all__)
    assert "predict_volume" in dir(autoseg)


def test_tab_imports_nothing_and_the_names_are_there_before_anything_was_used():
    code = (
        "import sys, autoseg\n"
        "print(*dir(autoseg))\n"
        "print(*[name for name in ('torch', 'numpy', 'pydantic', 'autoseg.api') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == [" ".join(sorted(autoseg.__all__)), "", ""]


def test_pythons_own_completer_finds_the_functions():
    completer = Completer({"autoseg": autoseg})
    assert completer.complete("autoseg.predict_", 0).startswith("autoseg.predict_images")
    assert completer.complete("autoseg.predict_", 2).startswith("autoseg.predict_volume")
    assert completer.complete("autoseg.TYPE", 0) is None


def test_a_model_is_one_line(run):
    model = autoseg.load_model(run, device="cpu", precision="float32", configuration="3d_fullres")
    assert repr(model) == (
        "SegmentationModel(dataset='test', configuration='3d_fullres', folds=('0', '1'), device='cpu', "
        "precision='float32')"
    )
    assert str(model) == repr(model)


def test_a_cascade_names_its_previous_stage(run):
    model = autoseg.load_model(run, device="cpu")
    cascade = replace(model, previous=replace(model, configuration="3d_lowres"))
    assert "configuration='3d_fullres', previous='3d_lowres', folds" in repr(cascade)


def test_a_plan_is_one_line_that_names_its_configurations(run):
    plan = autoseg.load_model(run, device="cpu").plan
    assert "planner='test'" in repr(plan)
    assert "configurations={'3d_fullres': ..., '2d': ...}" in repr(plan)
    configuration = repr(plan.configurations["3d_fullres"])
    assert "patch_voxels=(8, 8, 8)" in configuration
    assert "network=PlainUNetPlan(...)" in configuration
    for text in (repr(plan), str(plan), configuration):
        assert len(text) < ONE_LINE
        assert "\n" not in text


def test_a_summary_shows_its_means(summary):
    assert repr(summary) == (f"EvaluationSummary(cases=2, classes={MANY}, Dice=0.9, IoU=0.8, HD95=None, NSD=0.75)")
    assert len(repr(summary.metric_per_case[0])) < ONE_LINE
    assert "metrics=<118 entries>" in repr(summary.metric_per_case[0])


def test_a_selection_shows_what_it_chose():
    members = (Member(configuration="3d_fullres", folds=("0", "1"), weights_sha256=("a" * 64, "b" * 64)),)
    selection = build_selection(members, (LargestComponent(name="foreground", values=(5, 9)),))
    assert repr(selection) == (
        "Selection(members={'3d_fullres': ('0', '1')}, postprocessing=['keep the largest component of foreground'], "
        "cases=1, Dice=None)"
    )


def test_what_the_other_functions_return_is_one_line(summary):
    trained = TrainedFold(fold="0", folder=FoldFolder(Path("run/models/2d/fold_0")), summary=summary)
    exchanged = ExchangedModel(configuration="2d", folds=("0",), written=("0",), folder=Path("run"))
    for value in (trained, exchanged, PredictionOutcome(written=3, kept=1), *PLANNERS.values()):
        assert len(repr(value)) < ONE_LINE * 1.5, repr(value)
