import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from builders.evaluations import build_class_metrics, summarize
from builders.labels import build_labels

from autoseg.document import read_document
from autoseg.errors import EvaluationError
from autoseg.evaluation import CaseEvaluation, ClassMetrics, EvaluationSummary, write_summary
from autoseg.evaluation.summary import DEFINITIONS, METRICS

DEFINED = build_class_metrics()
MISSING = replace(DEFINED, dice=None, iou=None, hd95_mm=None, surface_dice=None, relative_volume_difference=None)


def build_case(name: str, *metrics: ClassMetrics) -> CaseEvaluation:
    return CaseEvaluation(
        case=name,
        prediction_file=f"predictions/{name}.nii.gz",
        reference_file=f"references/{name}.nii.gz",
        metrics=metrics,
    )


@pytest.fixture
def summary() -> EvaluationSummary:
    cases = [
        build_case("one", DEFINED, MISSING),
        build_case("two", replace(DEFINED, dice=0.9, true_positives=3), MISSING),
        build_case("three", MISSING, replace(DEFINED, dice=0.1)),
    ]
    return summarize(cases, labels=build_labels({"liver": (1,), "tumour": (5,)}), tolerance_mm=1.5)


def test_means_leave_undefined_values_out_and_say_how_many_remain(summary: EvaluationSummary) -> None:
    liver, tumour = summary.mean["1"], summary.mean["5"]
    assert (liver.Dice, tumour.Dice) == (pytest.approx(0.7), 0.1)
    assert pytest.approx(7 / 3) == liver.TP
    assert (summary.count["1"].Dice, summary.count["5"].Dice, summary.count["5"].TP) == (2, 1, 3)


def test_the_spread_is_the_sample_standard_deviation_where_there_are_two_values(summary: EvaluationSummary) -> None:
    assert summary.std["1"].Dice == pytest.approx(statistics.stdev([0.5, 0.9]))
    assert summary.std["5"].Dice is None


def test_the_foreground_mean_is_the_mean_over_classes(summary: EvaluationSummary) -> None:
    assert summary.foreground_mean.Dice == pytest.approx((0.7 + 0.1) / 2)


def test_a_class_that_is_nowhere_defined_is_left_out_of_the_foreground_mean() -> None:
    labels = build_labels({"liver": (1,), "tumour": (2,)})
    summary = summarize([build_case("one", DEFINED, MISSING)], labels=labels, tolerance_mm=1.0)
    assert (summary.mean["2"].Dice, summary.count["2"].Dice) == (None, 0)
    assert summary.foreground_mean.Dice == 0.5


def test_without_any_defined_value_the_foreground_mean_is_null() -> None:
    summary = summarize([build_case("one", MISSING)], labels=build_labels({"liver": (1,)}), tolerance_mm=1.0)
    assert summary.foreground_mean.Dice is None


def test_classes_are_named_by_their_file_values_and_regions_by_their_tuple() -> None:
    labels = build_labels({"whole": (10, 30, 20), "core": (30,)}, region_write_values=(10, 30))
    summary = summarize([build_case("one", DEFINED, DEFINED)], labels=labels, tolerance_mm=1.0)
    assert summary.class_names == {"(10, 30, 20)": "whole", "30": "core"}
    assert list(summary.mean) == ["(10, 30, 20)", "30"]


def test_the_json_file_has_the_keys_that_nnunet_users_read(summary: EvaluationSummary, tmp_path: Path) -> None:
    write_summary(tmp_path / "validation", summary)
    content = json.loads((tmp_path / "validation" / "summary.json").read_text())
    assert {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"} <= set(content["foreground_mean"])
    assert content["mean"]["5"]["Dice"] == 0.1
    case = content["metric_per_case"][0]
    assert case["prediction_file"] == "predictions/one.nii.gz"
    assert case["reference_file"] == "references/one.nii.gz"
    assert case["metrics"]["1"]["TP"] == 2
    assert isinstance(case["metrics"]["1"]["TP"], int)
    assert case["metrics"]["5"]["Dice"] is None
    assert (content["schema_version"], content["tolerance_mm"]) == (1, 1.5)


def test_the_json_file_reads_back_as_it_was(summary: EvaluationSummary, tmp_path: Path) -> None:
    write_summary(tmp_path, summary)
    assert read_document(tmp_path / "summary.json", EvaluationSummary) == summary


def test_the_json_file_holds_surface_distances_accuracy_and_lesions(summary: EvaluationSummary, tmp_path: Path) -> None:
    write_summary(tmp_path, summary)
    metrics = json.loads((tmp_path / "summary.json").read_text())["metric_per_case"][0]["metrics"]["1"]
    added = {"PA": 0.96, "VOE": 0.75, "ASD": 1.5, "HD": 6.0}
    added |= {"lesion_f1": 2 / 3, "lesions_found": 1, "lesions_false": 1, "lesions_missed": 0}
    assert {name: metrics[name] for name in added} == added


def test_a_summary_of_an_earlier_version_is_read_without_the_metrics_it_lacks(
    summary: EvaluationSummary, tmp_path: Path
) -> None:
    write_summary(tmp_path, summary)
    path = tmp_path / "summary.json"
    content = json.loads(path.read_text())
    for values in (content["foreground_mean"], content["metric_per_case"][0]["metrics"]["1"]):
        for name in METRICS[METRICS.index("PA") :]:
            del values[name]
    path.write_text(json.dumps(content))
    read = read_document(path, EvaluationSummary)
    assert (read.foreground_mean.Dice, read.foreground_mean.ASD) == (summary.foreground_mean.Dice, None)


def test_every_metric_is_defined_in_words() -> None:
    assert METRICS
    assert set(METRICS) <= set(DEFINITIONS)


def test_the_table_has_a_row_per_case_and_class_and_statistics_below(
    summary: EvaluationSummary, tmp_path: Path
) -> None:
    write_summary(tmp_path, summary)
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["case"], row["label"], row["class"]) for row in rows] == [
        *(
            ("case", case, label, name)
            for case in ("one", "two", "three")
            for label, name in (("1", "liver"), ("5", "tumour"))
        ),
        *(
            (row, "", label, name)
            for row in ("mean", "std", "count")
            for label, name in (("1", "liver"), ("5", "tumour"))
        ),
        ("foreground_mean", "", "", ""),
    ]
    assert (rows[0]["Dice"], rows[0]["TP"], rows[1]["Dice"], rows[1]["HD95"]) == ("0.5", "2", "", "")
    assert float(rows[-1]["Dice"]) == pytest.approx(0.4)


def test_a_summary_needs_a_case() -> None:
    with pytest.raises(EvaluationError, match="no case to summarize"):
        summarize([], labels=build_labels({"liver": (1,)}), tolerance_mm=1.0)
