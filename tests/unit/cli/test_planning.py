"""`autoseg plan`: what the command passes on."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from builders.datasets import write_dataset

import autoseg
from autoseg.cli import plan as command
from autoseg.cli.choices import find_planner
from autoseg.cli.terminal import forecast_table
from autoseg.errors import PlanError
from autoseg.workflows.plan import forecasting, planning
from planners import PLANNERS


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"loss": "tversky+cldice"},
            r"'tversky\+cldice' is impossible for the labels of Dataset001_X: cldice works only",
        ),
        ({"architecture": "mask_rcnn"}, "mask_rcnn finds separate objects: .*; plan with --task instances"),
        (
            {"architecture": "danet", "head": "point_rend"},
            "head point_rend does not fit the network: a network of the family dilated has no decoder of levels",
        ),
    ],
)
def test_what_labels_forbid_is_refused_before_anything_is_measured(
    given: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.zeros((4, 4, 4), np.float32)
    cases = [(f"case{index}", (image, image.astype(np.uint8))) for index in range(5)]
    dataset = write_dataset(tmp_path / "Dataset001_X", cases, labels={"big": 1, "small": 2, "ignore": 3})
    monkeypatch.setattr("autoseg.workflows.plan.planning.prepare_worker_context", lambda _: None)
    for name in ("survey_headers", "measure_dataset", "measure_device"):
        monkeypatch.setattr(f"autoseg.workflows.plan.planning.{name}", lambda *_, **__: pytest.fail("measured"))
    for planner in ("default", "timed"):
        with pytest.raises(PlanError, match=message):
            command.plan(dataset, run=tmp_path / "run", planner=planner, **given)
        with pytest.raises(PlanError, match=message):
            autoseg.plan_dataset(dataset, tmp_path / "run", planner=find_planner(planner, **given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ""),
        ({"loss": "dice+cross_entropy", "task": "segmentation"}, ""),
        (
            {"architecture": "unet_plus_plus", "loss": "tversky+focal", "head": "point_rend", "task": "instances"},
            "--architecture unet_plus_plus --head point_rend --loss tversky+focal --task instances",
        ),
        (
            {"architecture": "ternaus_net", "pretrained": Path("my weights/vgg.pth"), "configuration": ["2d", "2.5d"]},
            "--architecture ternaus_net --pretrained 'my weights/vgg.pth' --configuration 2d --configuration 2.5d",
        ),
    ],
)
def test_the_forecast_suggests_another_plan_with_the_same_options(
    given: dict[str, object], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = SimpleNamespace(run=SimpleNamespace(root=tmp_path), describe=lambda: "planned")
    shown = []
    monkeypatch.setattr(command, "find_planner", lambda *_, **__: PLANNERS["default"])
    monkeypatch.setattr(command, "plan_and_print", lambda *_, **__: outcome)
    monkeypatch.setattr(command, "show_forecast", lambda *_, options: shown.append(shlex.join(options)))
    command.plan(tmp_path, **given)
    assert shown == [expected]


def test_what_was_planned_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = SimpleNamespace(run=SimpleNamespace(root=tmp_path), describe=lambda: "it was planned")
    monkeypatch.setattr(planning, "plan_dataset", lambda *_, **__: outcome)
    monkeypatch.setattr(forecasting, "forecast_run", lambda *_, **__: None)
    monkeypatch.setattr(forecast_table, "print_forecast", lambda *_, **__: None)
    monkeypatch.setattr(forecast_table, "suggest_next", lambda *_: "the next command")
    command.plan(tmp_path, no_preprocess=True)
    printed = "".join(capsys.readouterr())
    assert printed.count("it was planned") == 1
    assert "the next command" in printed
