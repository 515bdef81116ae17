import csv
import io

import numpy as np
import pytest
from builders.evaluations import build_summary

from autoseg.document import read_document
from autoseg.errors import EvaluationError
from autoseg.evaluation import crossvalidation
from autoseg.evaluation.crossvalidation import (
    CrossValidation,
    average_classes,
    compute_statistics,
    draw_class_means,
    score_configuration,
    write_crossvalidation,
)


def test_the_held_out_cases_of_all_folds_are_pooled():
    scores = score_configuration(
        {
            "0": build_summary({"a": {"1": 0.8, "2": None}, "b": {"1": 0.9, "2": 0.5}}),
            "1": build_summary({"c": {"1": 0.7, "2": 0.7}}),
        }
    )
    assert (scores.folds, scores.cases) == (("0", "1"), 3)
    first, second = scores.classes["1"]["Dice"], scores.classes["2"]["Dice"]
    assert (first.mean, first.std, first.count) == (pytest.approx(0.8), pytest.approx(0.1), 3)
    assert (second.mean, second.count) == (pytest.approx(0.6), 2)
    foreground = scores.foreground["Dice"]
    assert foreground.mean == pytest.approx(0.7)  # of the classes' means, as in a summary
    assert foreground.std == pytest.approx(np.std([0.8, 0.7, 0.7], ddof=1))
    assert foreground.count == 3


def test_a_score_that_is_nowhere_defined_has_no_statistics():
    hd95 = score_configuration({"0": build_summary({"a": {"1": 0.8}, "b": {"1": 0.9}})}).classes["1"]["HD95"]
    assert hd95.model_dump() == {"mean": None, "std": None, "lower": None, "upper": None, "count": 0}


def test_a_single_case_has_no_deviation():
    dice = score_configuration({"0": build_summary({"a": {"1": 0.8}})}).classes["1"]["Dice"]
    assert (dice.mean, dice.std) == (0.8, None)


@pytest.mark.parametrize(("count", "has_interval"), [(1, False), (4, False), (5, True)])
def test_an_interval_needs_five_cases_in_which_the_score_is_defined(count, has_interval):
    table = np.full((8, 1), np.nan)
    table[:count, 0] = np.linspace(0.7, 0.8, count)
    (statistic,), foreground = compute_statistics(table)
    for entry in (statistic, foreground):
        assert entry.mean == pytest.approx(table[:count].mean())
        assert (entry.lower is not None, entry.upper is not None) == (has_interval, has_interval)


def test_a_case_of_two_folds_counts_once_with_its_mean():
    scores = score_configuration(
        {"0": build_summary({"a": {"1": 0.6}, "b": {"1": 0.9}}), "1": build_summary({"a": {"1": 0.8}})}
    )
    assert scores.cases == 2
    assert scores.classes["1"]["Dice"].mean == pytest.approx(0.8)


def test_the_interval_holds_the_true_mean_as_often_as_promised(monkeypatch):
    monkeypatch.setattr(crossvalidation, "RESAMPLES", 400)
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        (statistic,), _ = compute_statistics(generator.normal(0.8, 0.05, size=(40, 1)))
        hits += statistic.lower <= 0.8 <= statistic.upper
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_has_the_width_of_the_standard_error():
    table = np.random.default_rng(1).normal(0.8, 0.05, size=(60, 2))
    (first, _), foreground = compute_statistics(table)
    assert first.upper - first.lower == pytest.approx(2 * 1.96 * first.std / 60**0.5, rel=0.1)
    # Classes are drawn together, case by case.
    assert foreground.upper - foreground.lower == pytest.approx(2 * 1.96 * foreground.std / 60**0.5, rel=0.1)


def test_the_bootstrap_draws_the_same_every_time_and_ignores_what_is_not_defined():
    table = np.array([[0.5, np.nan], [0.7, 0.9], [0.9, np.nan]])
    assert compute_statistics(table) == compute_statistics(table)
    (means,) = draw_class_means([table], np.random.default_rng(0))
    drawn = means[:, 1]
    assert set(np.unique(drawn[~np.isnan(drawn)]).tolist()) == {0.9}
    assert np.isnan(drawn).any()  # where the second case was not drawn
    assert not np.isnan(average_classes(means)).any()


def test_the_interval_depends_neither_on_the_order_of_folds_nor_on_that_of_cases():
    scores = {name: {"1": 0.5 + index**2 / 200} for index, name in enumerate("abcdefgh")}
    first, second = ({name: scores[name] for name in names} for names in ("cahe", "bgfd"))
    pooled = score_configuration({"0": build_summary(first), "1": build_summary(second)})
    swapped = score_configuration({"0": build_summary(second), "1": build_summary(dict(reversed(first.items())))})
    assert swapped.foreground == pooled.foreground
    in_order = np.array([[entry["1"]] for entry in scores.values()])
    assert pooled.foreground["Dice"] == compute_statistics(in_order)[1]  # as `autoseg select` orders them


def test_scores_that_are_drawn_together_get_the_means_that_each_gets_alone():
    generator = np.random.default_rng(0)
    tables = [np.where(generator.random((9, 2)) < 0.2, np.nan, generator.random((9, 2))) for _ in range(3)]
    together = draw_class_means(tables, np.random.default_rng(1))
    for table, means in zip(tables, together, strict=True):
        (alone,) = draw_class_means([table], np.random.default_rng(1))
        assert np.array_equal(means, alone, equal_nan=True)


def test_of_more_cases_fewer_samples_are_in_memory_and_they_are_the_same(monkeypatch):
    table = np.random.default_rng(0).random((40, 2))
    (means,) = draw_class_means([table], np.random.default_rng(1))
    monkeypatch.setattr(crossvalidation, "WEIGHTS_AT_ONCE", 1000)
    (few_at_once,) = draw_class_means([table], np.random.default_rng(1))
    assert few_at_once == pytest.approx(means, rel=1e-12)


def test_the_cases_are_drawn_once_for_all_scores(monkeypatch):
    draw, calls = crossvalidation.draw_class_means, []

    def count_and_draw(tables, generator):
        calls.append(len(tables))
        return draw(tables, generator)

    monkeypatch.setattr(crossvalidation, "draw_class_means", count_and_draw)
    score_configuration({"0": build_summary({"a": {"1": 0.8}, "b": {"1": 0.9}})})
    assert calls == [4]


@pytest.mark.parametrize("summaries", [{}, {"0": {"a": {"1": 0.5}}, "1": {"b": {"2": 0.5}}}])
def test_folds_without_common_classes_are_refused(summaries):
    with pytest.raises(EvaluationError, match="same classes"):
        score_configuration({fold: build_summary(cases) for fold, cases in summaries.items()})


def test_both_files_say_the_same(tmp_path):
    cases = {name: {"1": 0.8, "2": 0.6} for name in "abcde"}
    scores = score_configuration({"0": build_summary(cases)})
    result = CrossValidation(class_names={"1": "organ 1", "2": "organ 2"}, configurations={"2d": scores})
    write_crossvalidation(tmp_path / "c.json", tmp_path / "c.csv", result)
    assert read_document(tmp_path / "c.json", CrossValidation) == result
    rows = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text())))
    assert {row["configuration"] for row in rows} == {"2d"}
    dice = {row["class"]: row for row in rows if row["score"] == "Dice"}
    assert list(dice) == ["organ 1", "organ 2", "foreground"]
    assert float(dice["foreground"]["mean"]) == pytest.approx(0.7)
    assert float(dice["organ 1"]["lower"]) == scores.classes["1"]["Dice"].lower
