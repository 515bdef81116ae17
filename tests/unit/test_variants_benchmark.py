"""The benchmark of variants goes on where it was interrupted, and names what it could not measure."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders.plans import build_configuration, build_plan

sys.path.append(str(Path(__file__).parents[2]))

from autoseg.document import write_document
from autoseg.evaluation.instances import match_objects
from autoseg.workflows.evaluate.objects import SCORES_JSON, summarize_objects
from benchmarks.variant_scores import format_table, join_scores, read_object_scores
from benchmarks.variants import OBJECT_RUNS, RUNS, compare, list_trainings
from planners import FURTHER_CONFIGURATIONS

STAGES_OF_PICTURES = ("--configuration", "2d", "--configuration", "boundary_refinement")
PROGRAM = """
import json, sys
from pathlib import Path

command, run, *rest = sys.argv[1:]
with Path(__file__).with_name("calls.txt").open("a") as file:
    file.write(command + "\\n")
if command == "plan":
    print("no plan exists for objects")
    sys.exit(1)
if command == "train":
    folder = Path(run, "models", rest[1], "fold_" + rest[3], "validation")
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": [{"case": "a"}, {"case": "b"}]}))
if command == "predict":
    Path(rest[1]).mkdir()
if command == "evaluate":
    scores = {"AP50": 0.75, "AP": 0.5, "PQ": None}
    cases = {case: {"components": {"cell": scores}} for case in "ab"}
    Path(run, "object_scores.json").write_text(json.dumps({"cases": cases}))
"""


@pytest.fixture
def trainings(tmp_path):
    """The plain network, whose run is planned and timed, and one that cannot be planned."""
    for folder in ("data/imagesTr", "data/instancesTr", "results"):
        (tmp_path / folder).mkdir(parents=True)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    listed = list_trainings(tmp_path / "results", tmp_path / "data", ["core_border"], 0.5)
    plain, other = (replace(training, program=(sys.executable, "-S", str(program))) for training in listed)
    plain.run.root.mkdir()
    write_document(plain.run.plan, build_plan({"2d": build_configuration((16, 16), data_of="2d")}))
    plain.paces.write_text('{"2d": 0.1}')
    return plain, other


def test_what_is_there_is_not_repeated_and_what_fails_is_named(trainings, tmp_path):
    lines = list(compare(list(trainings)))
    assert lines[1] == (
        "| run | configuration | iterations | s per step | CPU min in all | CPU s per image | "
        "AP50 | gain | AP | gain | PQ | gain | learned rule |"
    )
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells[:4] == ["components", "2d, components", "300", "0.100"]
    assert cells[6:] == ["0.7500", "", "0.5000", "", "", "", ""]
    log = trainings[1].log
    assert lines[-1] == (
        f"not measured: core_border: autoseg plan failed: no plan exists for objects (all of it: {log})"
    )
    assert "no plan exists for objects" in log.read_text()
    assert list(compare(list(trainings))) == lines
    calls = (tmp_path / "calls.txt").read_text().split()
    assert calls == ["plan", "train", "predict", "predict", "evaluate", "plan"]


def test_a_fold_that_was_trained_before_an_interruption_is_not_trained_again(trainings, tmp_path):
    plain, _ = trainings
    plain.run.fold("2d", "0").validation.mkdir(parents=True)
    plain.run.fold("2d", "0").summary.write_text(json.dumps({"metric_per_case": [{"case": "a"}]}))
    plain.spent.write_text('{"2d, fold 0": 90.0}')
    *_, row = compare([plain])
    assert row.split("|")[5].strip() == "1.5"
    assert row.split("|")[6].strip() == ""  # one held-out image does not tell its time from that of the command
    assert "train" not in (tmp_path / "calls.txt").read_text()


def test_every_fold_on_request_of_the_chosen_configurations_is_trained_and_has_a_result_of_its_own(trainings, tmp_path):
    plain, _ = trainings
    list(compare([plain]))
    configurations = {name: build_configuration((16, 16), data_of="2d") for name in ("2d", "2.5d")}
    write_document(plain.run.plan, build_plan(configurations))
    plain.paces.write_text('{"2d": 0.1, "2.5d": 0.1}')
    chosen = replace(plain, folds=("0", "1", "2"), configurations=["2d"])
    assert not chosen.find_result("2d").exists()
    list(compare([chosen]))
    assert chosen.find_result("2d").exists()
    assert not chosen.find_result("2.5d").exists()
    calls = (tmp_path / "calls.txt").read_text().split()
    assert calls == ["train", "predict", "predict", "evaluate"] + ["train"] * 2 + ["predict", "predict", "evaluate"]


def test_other_stages_replace_those_of_volumes(tmp_path):
    for stages, asked in ((None, RUNS["stages"]), (["2d", "boundary_refinement"], STAGES_OF_PICTURES)):
        first, head = list_trainings(tmp_path, tmp_path, ["point_rend"], 0.5, stages=stages)
        assert (first.name, first.options) == ("stages", asked)
        assert head.options == RUNS["point_rend"]


def test_scores_of_several_folds_are_joined():
    of_folds = [{"Dice": {"a": [0.5]}}, {"Dice": {"b": [0.7]}}]
    assert join_scores(of_folds) == {"Dice": {"a": [0.5], "b": [0.7]}}


def test_gains_are_those_over_the_first_row_case_by_case():
    shared = {"run": "stages", "iterations": 10, "pace": 0.5, "cpu_minutes": 1.0, "image_seconds": 0.25}
    plain = {"configuration": "3d_fullres", "scores": {"Dice": {"b": [0.7, None], "a": [0.5, None]}}} | shared
    other = {"configuration": "3d_roi", "scores": {"Dice": {"a": [0.6, None], "b": [0.9, None]}}} | shared
    heading, rule, first, second = format_table([plain, other])
    assert heading.endswith("| CPU s per image | Dice | gain |")
    assert rule == f"|{'---|' * 8}"
    assert first.endswith("| 0.25 | 0.6000 |  |")
    assert "| 0.7500 | +0.1500 (too few cases" in second


def test_scores_of_objects_are_read_case_by_case(tmp_path):
    numbers = np.zeros((1, 4, 8), np.int64)
    numbers[0, :, :3], numbers[0, :, 5:] = 1, 2
    found = (match_objects(np.where(numbers == 1, 1, 0), numbers),)
    missed = (match_objects(np.zeros_like(numbers), np.zeros_like(numbers)),)
    evaluation = summarize_objects({"a": {"components": found}, "b": {"components": missed}}, ["cell"])
    write_document(tmp_path / SCORES_JSON, evaluation)
    scores = read_object_scores(tmp_path, "components")
    assert scores["AP50"] == {"a": [0.5], "b": [None]}
    assert scores["PQ"] == {"a": [pytest.approx(2 / 3)], "b": [None]}


def test_every_configuration_on_request_and_every_way_to_tell_objects_apart_is_compared():
    asked = {option for options in (*RUNS.values(), *OBJECT_RUNS.values()) for option in options}
    assert set(FURTHER_CONFIGURATIONS) | {"--refine", "mask_rcnn", "centre_distance"} <= asked
