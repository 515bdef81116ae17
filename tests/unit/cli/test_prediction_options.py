"""What `autoseg select` prints of ways to predict, and what `autoseg predict` makes of its flags."""

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import typer
from builders.selections import build_prediction_choice, build_selection, build_variant
from rich.console import Console as RichConsole
from typer.testing import CliRunner

from autoseg.cli.predict import predict
from autoseg.cli.terminal.console import Console
from autoseg.cli.terminal.reports import print_selection
from autoseg.evaluation.crossvalidation import Statistic
from autoseg.inference.options import PredictionOptions
from autoseg.workflows.predict import prediction
from autoseg.workflows.predict.prediction import PredictionOutcome, PredictionRequest
from autoseg.workflows.select.selection_document import CandidateScores, Member

SELECTED = PredictionOptions(mirroring=False, decoding="dice")


def test_the_ways_to_predict_are_printed_with_dice_and_cost_and_what_was_chosen() -> None:
    variants = (build_variant("2d", dice=0.9), build_variant("2d", mirroring=False, step_fraction=0.75, dice=0.8))
    choice = build_prediction_choice(variants, mirroring=False).model_copy(
        update={"mirroring_because": "they gain little", "decoding_because": "it gains nothing"}
    )
    nothing = Statistic(count=0, mean=None, std=None, lower=None, upper=None)
    scores = CandidateScores(configurations=("2d",), foreground=nothing, classes={})
    member = Member(configuration="2d", folds=("0",), weights_sha256=("0",))
    selection = build_selection((member,), ()).model_copy(update={"candidates": (scores,), "prediction": choice})
    output = io.StringIO()
    print_selection(Console(RichConsole(file=output, width=160)), selection)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.getvalue().splitlines()]
    assert ["2d: mirroring, step 0.5", "0.900", "1"] in rows
    assert ["2d: no mirroring, step 0.75", "0.800", "1"] in rows
    assert "mirroring dropped: they gain little" in output.getvalue()
    assert "decoding argmax: it gains nothing" in output.getvalue()
    of_objects = choice.model_copy(update={"score_name": "AP of objects"})
    print_selection(
        Console(RichConsole(file=output, width=160)), selection.model_copy(update={"prediction": of_objects})
    )
    heading = next(line for line in reversed(output.getvalue().splitlines()) if "variant" in line)
    assert [cell.strip() for cell in heading.split("┃")[1:-1]] == ["variant", "AP of objects", "passes per case"]


def test_many_candidates_have_a_row_each_so_that_every_score_can_be_read() -> None:
    scores = [Statistic(count=9, mean=value / 100, std=0.1, lower=0.5, upper=0.95) for value in (80, 70)]
    names = ("3d_fullres", "3d_roi", "boundary_refinement", "2.5d", "2d_triplanar", "2d")
    candidates = tuple(
        CandidateScores(configurations=pair, foreground=scores[0], classes={"1": scores[1]}, image_cost=12.0)
        for pair in (*((name,) for name in names), *combinations(names, 2))
    )
    member = Member(configuration="2d", folds=("0",), weights_sha256=("0",))
    selection = build_selection((member,), ()).model_copy(update={"class_names": {"1": "foreground"}})
    for shown, row in ((candidates, "2.5d + 2d_triplanar"), (candidates[:2], "foreground")):
        output = io.StringIO()
        print_selection(
            Console(RichConsole(file=output, width=150)), selection.model_copy(update={"candidates": shown})
        )
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.getvalue().splitlines()]
        numbers = ["0.700 ± 0.100 [0.500, 0.950]", "0.800 ± 0.100 [0.500, 0.950]"]
        expected = [row, *numbers, "12"] if shown is candidates else [row, numbers[0], numbers[0]]
        assert expected in rows
        assert len(shown) > 2 or [row, numbers[1], numbers[1]] in rows  # a class of this name is kept


@pytest.mark.parametrize(
    ("flags", "expected", "named"),
    [
        ((), SELECTED, ()),
        (("--mirroring",), PredictionOptions(decoding="dice"), ("mirroring",)),
        (("--no-mirroring", "--decoding", "argmax"), PredictionOptions(mirroring=False), ("mirroring",)),
        (
            ("--step-fraction", "0.75"),
            PredictionOptions(mirroring=False, step_fraction=0.75, decoding="dice"),
            ("step_fraction",),
        ),
    ],
)
def test_flags_overrule_what_was_selected_one_by_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    flags: tuple[str, ...],
    expected: PredictionOptions,
    named: tuple[str, ...],
) -> None:
    requests: list[PredictionRequest] = []

    def capture(*_: object, request: PredictionRequest, **__: Any) -> PredictionOutcome:
        requests.append(request)
        return PredictionOutcome(written=0, kept=0)

    monkeypatch.setattr(prediction, "predict_images", capture)
    (tmp_path / "plan.json").write_text("")
    app = typer.Typer()
    app.command()(predict)
    done = CliRunner().invoke(app, [str(tmp_path), "images", "out", *flags, "--budget", "1m30s"])
    assert done.exit_code == 0, done.output
    (request,) = requests
    assert request.choose_options(SELECTED) == expected
    assert request.named_options == named
    assert request.budget_seconds == 90.0
