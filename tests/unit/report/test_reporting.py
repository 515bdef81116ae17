"""The report of a run at every stage, on runs that look as if they had been trained."""

import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.balls import SHAPE, make_case, save
from builders.dicom_series import PATIENT, write_series
from builders.objects import CELLS
from builders.progress import Notes as Remembered
from builders.scored_runs import (
    CASES,
    CONFIGURATION,
    begin_fold,
    build_planned_run,
    build_scored_run,
    select,
)

from autoseg.dataset import DatasetRecord
from autoseg.document import read_document, write_document
from autoseg.errors import OptionError, PredictionError, RunError
from autoseg.evaluation.summary import EvaluationSummary
from autoseg.plan import Plan
from autoseg.processes.progress import Progress, SilentProgress
from autoseg.quality.distribution import Flag
from autoseg.quality.estimates import CaseQuality, ClassQuality, QualityReport, VolumeEstimate
from autoseg.quality.regression import Estimate
from autoseg.report import page as page_module
from autoseg.report.blocks import Commands, Gallery, Notes, Section, Table
from autoseg.report.page import Page, ShownCase
from autoseg.run_folder import RunFolder
from autoseg.runtime.provenance import TrainingRecord, read_versions
from autoseg.volume_io import read_grid, write_label_map
from autoseg.volume_io.dicom import find_series, stack_slices
from autoseg.workflows.predict.prediction_folder import PredictionRecord
from autoseg.workflows.report.cases import build_volumes, describe_cases, read_scores, show_cases
from autoseg.workflows.report.contents import read_contents
from autoseg.workflows.report.predicted_cases import read_predictions
from autoseg.workflows.report.predictions import describe_predictions
from autoseg.workflows.report.reporting import write_report
from autoseg.workflows.report.scores import describe_crossvalidation, describe_provenance

HOSTILE_CASE = "<script>alert('1')"
HOSTILE_CLASS = "</script><img src=x onerror=alert(2)>"


def write(run: RunFolder, **options: object) -> str:
    outcome = write_report(run.root, progress=SilentProgress(), **options)  # type: ignore[arg-type]
    return outcome.path.read_text(encoding="utf-8")


def list_sections(text: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', text)


def read_data(text: str) -> dict[str, list[dict[str, object]]]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    content: dict[str, list[dict[str, object]]] = json.loads(data)
    return content


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = build_scored_run(tmp_path_factory.mktemp("scored"))
    select(run)
    return run


@pytest.fixture(scope="module")
def text(scored: RunFolder) -> str:
    return write(scored)


def test_after_planning_it_shows_data_decisions_and_states(tmp_path: Path) -> None:
    text = write(build_planned_run(tmp_path, image_digest="same"))
    assert list_sections(text) == ["dataset", "plan", "training", "provenance"]
    assert "memory suffices for &lt;8&gt; voxels" in text
    assert "case0 and case1 and case2" in text  # copies of one image
    assert "<td>waiting</td>" in text
    assert "autoseg plan Dataset001_Balls --planner test --memory-gb 8 --run balls.autoseg" in text
    assert "Groups" not in text
    assert text.count("<svg") == 3


def test_groups_and_the_options_of_all_calls_are_shown_without_the_folders_of_the_computer(tmp_path: Path) -> None:
    run = build_planned_run(tmp_path)
    record = read_document(run.dataset, DatasetRecord)
    told = {
        "groups": {case: case[:4] + str(index // 2) for index, case in enumerate(CASES)},
        "split_options": ("--group-by", r"case\d", "--splits", "/home/somebody/folds.json"),
    }
    write_document(run.dataset, record.model_copy(update=told))
    begin_fold(run, 0)
    path = run.fold(CONFIGURATION, "0").training_record
    calls = (("--epochs", "3", "--init", "/home/somebody/small.autoseg"), ("--extend", "2"))
    write_document(path, read_document(path, TrainingRecord).model_copy(update={"calls": calls}))
    text = html.unescape(write(run))
    assert "<dt>Groups</dt><dd>3, of 2 cases</dd>" in re.sub(r"\s*\n\s*", "", text)
    assert r"autoseg plan Dataset001_Balls --planner test --memory-gb 8 --group-by 'case\d' --splits folds.json" in text
    train = f"autoseg train balls.autoseg --configuration {CONFIGURATION} --fold 0"
    assert f"{train} --epochs 3 --init small.autoseg" in text
    assert f"{train} --extend 2" in text
    assert "somebody" not in text


def test_commands_have_all_options_of_the_calls_that_made_the_run(
    scored: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = read_contents(scored.root)
    assert contents.dataset is not None
    assert contents.selection is not None
    calls = (
        ("--task", "instances", "--loss", "dice+ce", "--pretrained", "/home/somebody/my net.pth"),
        ("--refine", "2d"),
    )
    dataset = contents.dataset.model_copy(update={"name": "my data", "plan_calls": calls})
    selection = contents.selection.model_copy(update={"call": ("--no-variants", "--fold", "0")})
    plan = contents.plan.model_copy(update={"planner": "timed --loss dice+ce", "budget_seconds": 60.0})
    section = describe_provenance(replace(contents, dataset=dataset, selection=selection, plan=plan))
    (commands,) = [block for block in section.blocks if isinstance(block, Commands)]
    usual = "autoseg plan 'my data' --planner timed --memory-gb 8 --budget 60s"
    assert commands.lines[0] == (
        f"{usual} --task instances --loss dice+ce --pretrained 'my net.pth' --run balls.autoseg"
    )
    assert commands.lines[1] == f"{usual} --refine 2d --run balls.autoseg"
    assert "autoseg select balls.autoseg --no-variants --fold 0" in commands.lines
    divided = replace(contents, dataset=dataset.model_copy(update={"split_options": ("--group-by", "case")}), plan=plan)
    commands = describe_provenance(divided).blocks[0]  # by Python, and then extended
    assert isinstance(commands, Commands)
    assert [line.count(" --group-by case ") for line in commands.lines[:2]] == [1, 0]
    earlier = replace(contents, plan=plan.model_copy(update={"instances": CELLS}))  # without its calls
    commands = describe_provenance(earlier).blocks[0]
    assert isinstance(commands, Commands)
    options = "--planner timed --loss dice+ce --memory-gb 8 --budget 60s --task instances"
    assert commands.lines[0] == f"autoseg plan Dataset001_Balls {options} --run balls.autoseg"
    told = {"plan_calls": (("--refine", "2d"),), "split_options": ("--group-by", "c")}  # extended by this version
    later = describe_provenance(replace(earlier, dataset=dataset.model_copy(update=told))).blocks[0]
    assert isinstance(later, Commands)
    assert later.lines[0] == f"autoseg plan 'my data' {options} --group-by c --run balls.autoseg"
    assert later.lines[1] == f"{usual} --refine 2d --run balls.autoseg"
    monkeypatch.chdir(scored.root)
    here = describe_provenance(replace(contents, run=RunFolder(Path()))).blocks[0]
    assert isinstance(here, Commands)
    assert here.lines[-1] == "autoseg report balls.autoseg"


def test_with_scores_it_shows_classes_cases_and_the_selection(text: str) -> None:
    sections = ["dataset", "plan", "training", "scores", "cases", "selection", "provenance"]
    assert list_sections(text) == sections
    assert re.findall(r'<a href="#(\w+)"', text) == sections
    assert "it has the highest mean Dice, 0.625" in text
    assert re.findall(r"<td>0\.\d+ to 0\.\d+</td>", text)
    notes = dict(re.findall(r'<span class="note">(\w+)</span> (\w+)</h4>', text))
    assert notes == {"worst": "case0", "median": "case3", "best": "case5"}
    rows = re.findall(r'data-case="(\d+)">\s*<td>(\w+)</td>', text)
    assert [name for _, name in rows] == list(CASES)
    assert all(read_data(text)["cases"][int(place)]["name"] == name for place, name in rows)


def test_a_run_of_which_some_folds_are_validated_says_so(tmp_path: Path) -> None:
    run = build_scored_run(tmp_path)
    run.fold(CONFIGURATION, "1").summary.unlink()
    contents = read_contents(run.root)
    result = contents.score()
    assert result is not None
    assert result.configurations[CONFIGURATION].cases == 3
    notes = describe_crossvalidation(contents, result).blocks[0]
    assert notes == Notes([f"warning: {CONFIGURATION}: 1 of 2 folds are validated so far"])


def test_every_case_has_image_reference_prediction_and_errors(text: str) -> None:
    assert set(re.findall(r'data-name="([\w]+)"', text)) == {"image", "reference", "prediction", "errors"}
    cases = read_data(text)["cases"]
    assert len(cases) == len(CASES)
    assert all(case["hasImage"] for case in cases)
    assert text.count("data:image/webp;base64,") == 9  # three layers of three cases
    assert "autoseg view Dataset001_Balls/imagesTr/case0_0000.nii.gz balls.autoseg/" in str(cases[0]["command"])


def test_a_series_of_slices_in_a_folder_is_an_image_like_any_other(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "case_0000.dcm", np.arange(60).reshape(3, 4, 5))
    grid = read_grid(folder)
    volumes = build_volumes([folder], {"prediction": np.ones(grid.shape_voxels, np.uint8)}, grid)
    assert volumes.image is not None
    assert volumes.image.shape == (1, 3, 4, 5)
    elsewhere = replace(grid, origin_mm=(0.0, 0.0, 0.0))
    assert build_volumes([folder], volumes.label_maps, elsewhere).image is None


def show_all(run: RunFolder, *, progress: Progress | None = None) -> Sequence[ShownCase]:
    contents = read_contents(run.root)
    return show_cases(contents, read_scores(contents), progress=progress or SilentProgress())


def test_a_page_of_very_many_cases_reads_those_to_be_looked_at_first_and_the_examples(tmp_path: Path) -> None:
    contents = read_contents(build_scored_run(tmp_path).root)
    every, some = read_scores(contents), read_scores(contents, most=2)
    assert (len(every.listed), every.left_out, every.examples[0]) == (len(CASES), 0, every.listed[0])
    assert (some.listed, some.left_out) == (every.listed[:2], len(CASES) - 2)
    assert some.notes == every.notes
    assert list(some.notes.values()) == ["worst", "median", "best"]
    result = contents.score()
    assert result is not None
    table = next(block for block in describe_cases(contents, some, result).blocks if isinstance(block, Table))
    assert table.shortage.startswith(f"2 of {len(CASES)} rows")
    cases = show_cases(contents, some, progress=SilentProgress())
    assert {case.key for case in cases} == {entry.case for _, entry in (*some.listed, *some.examples)}
    assert all(case.volumes for case in cases)


def test_a_case_that_several_folds_hold_out_has_a_row_of_each_and_is_an_example_once(tmp_path: Path) -> None:
    run = build_scored_run(tmp_path)
    summary = read_document(run.fold(CONFIGURATION, "0").summary, EvaluationSummary)
    worst = summary.metric_per_case[0]
    repeated = summary.model_copy(update={"metric_per_case": (*summary.metric_per_case, *[worst] * 20)})
    write_document(run.fold(CONFIGURATION, "0").summary, repeated)
    before, found = (
        read_scores(read_contents(build_scored_run(tmp_path / "other").root)),
        read_scores(read_contents(run.root)),
    )
    assert len(found.listed) == len(before.listed) + 20
    assert found.notes == before.notes
    assert len(found.examples) == 3


def test_cases_are_shown_without_their_images_where_the_dataset_has_gone(tmp_path: Path) -> None:
    run = build_scored_run(tmp_path)
    (tmp_path / "Dataset001_Balls").rename(tmp_path / "gone")
    cases = show_all(run)
    assert {tuple(case.volumes) for case in cases} == {("reference", "prediction", "errors")}


def test_a_case_whose_files_are_damaged_is_announced_and_left_out(tmp_path: Path) -> None:
    run, told = build_scored_run(tmp_path), Remembered()
    (run.fold(CONFIGURATION, "0").validation / "case0.nii.gz").write_bytes(b"damaged")
    cases = show_all(run, progress=told)
    assert "warning: case case0 is shown without pictures" in told.text
    assert [bool(case.volumes) for case in cases] == [False] + [True] * 5


def test_names_are_text_whatever_they_are(tmp_path: Path) -> None:
    cases = (HOSTILE_CASE, "case1", "case2", "case3")
    text = write(build_scored_run(tmp_path, cases=cases, classes=(HOSTILE_CLASS, "dark & light")))
    assert HOSTILE_CASE not in text
    assert HOSTILE_CLASS not in text
    assert "<img src=x" not in text
    assert html.escape(HOSTILE_CASE).replace("&#x27;", "&#39;") in text
    assert {case["name"] for case in read_data(text)["cases"]} == set(cases)
    assert {label["name"] for label in read_data(text)["labels"]} == {HOSTILE_CLASS, "dark & light"}
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert any("&lt;/script&gt;" in svg for svg in svgs)


def test_a_report_is_the_same_in_every_process(tmp_path: Path) -> None:
    root = build_scored_run(tmp_path).root
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from autoseg.workflows.report.contents import compute_digest, read_contents\n"
        "print(compute_digest(read_contents(Path(sys.argv[1]))))\n"
    )
    seeds = ({"PYTHONHASHSEED": seed} for seed in "12")  # by which the folds of a set have another order
    command = (sys.executable, "-c", code, root)
    found = {subprocess.run(command, capture_output=True, env=os.environ | seed, check=True).stdout for seed in seeds}
    assert len(found) == 1


def test_it_is_written_again_only_when_something_changed(tmp_path: Path) -> None:
    run = build_planned_run(tmp_path)
    assert write_report(run.root, progress=SilentProgress()).is_new
    state = (run.root / "report.html").stat().st_mtime_ns
    outcome = write_report(run.root, progress=SilentProgress())
    assert not outcome.is_new
    assert outcome.describe().startswith("unchanged: ")
    assert (run.root / "report.html").stat().st_mtime_ns == state
    before = outcome.path.read_text()
    begin_fold(run, 1)
    text = write(run)
    assert text.count("<svg") == before.count("<svg") + 1  # its curves
    assert "fold 1" in text
    assert f"autoseg train balls.autoseg --configuration {CONFIGURATION} --fold 1 --seed 7" in text


def test_the_same_run_gives_the_same_bytes_but_for_the_date_and_is_only_read(
    scored: RunFolder, text: str, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in scored.root.rglob("*")}
    again = write(scored, out=tmp_path / "a" / "report.html")
    date = re.compile(r"<time>[^<]*</time>")
    assert date.sub("", again) == date.sub("", text)
    assert {path: path.stat().st_mtime_ns for path in scored.root.rglob("*")} == before


def test_a_failed_writing_keeps_the_earlier_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    Page(title="earlier", subtitle="", sections=[]).write(path)
    before = path.read_text()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(RunError, match="cannot write"):
        Page(title="later", subtitle="", sections=[]).write(path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_page_stays_within_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.workflows.report.cases.MOST_VOLUME_BYTES", 9_000)
    monkeypatch.setattr("autoseg.workflows.report.cases.SHARE_OF_A_CASE", 2)
    cases = show_all(build_scored_run(tmp_path))
    sizes = [sum(map(len, case.volumes.values())) for case in cases]
    assert sum(sizes) <= 9_000
    assert max(sizes) <= 4_500
    assert 0 < sum(size > 0 for size in sizes) < len(CASES)
    assert sizes[0] > 0  # the worst case is never left out
    shares = page_module.MOST_VOLUME_BYTES * 4 / 3 + page_module.MOST_PICTURE_BYTES
    assert shares + 1.25 * 2**20 < page_module.MOST_PAGE_BYTES  # with the viewer


def write_predictions(folder: Path) -> Path:
    """Two predictions like the training cases, one without the dark ball and one with a small bright ball."""
    for index in range(4):
        label_map = make_case(index)[1]
        if index == 2:
            label_map[label_map == 5] = 0
        if index == 3:
            label_map[: SHAPE[0] // 2 - 4][label_map[: SHAPE[0] // 2 - 4] == 2] = 0
        save(folder / f"case{index}.nii.gz", label_map)
    return folder


def test_predictions_that_are_unlike_the_training_cases_come_first(scored: RunFolder, tmp_path: Path) -> None:
    text = write(scored, predictions=write_predictions(tmp_path / "out"), out=tmp_path / "report.html")
    assert list_sections(text)[0] == "predictions"
    assert "4 predicted images, 2 with a volume unlike those of the training cases" in text
    section = text[text.index('<section id="predictions">') : text.index('<section id="dataset">')]
    names = re.findall(r"<td>(case\d)</td>", section)
    assert names[:2] == ["case2", "case3"]
    assert "dark is missing, which almost every training case has" in section
    assert re.search(r"bright [\d.]+ ml, in training [\d.]+ to [\d.]+ ml", section)
    assert len(read_data(text)["cases"]) == 4 + len(CASES)  # though their names are the same


def build_quality(name: str, *, dice: float | None, flags: tuple[Flag, ...] = ()) -> CaseQuality:
    volume = VolumeEstimate(value=1.0, low=0.9, high=1.1)
    estimate = None if dice is None else Estimate(value=dice, low=dice - 0.1, high=dice + 0.05)
    entry = ClassQuality(volume=volume, dice=estimate, nsd=estimate)
    return CaseQuality(name=name, label_map=f"{name}.nii.gz", flags=flags, classes={"bright": entry})


def write_quality(out: Path, cases: tuple[CaseQuality, ...], **fields: Any) -> None:
    known: dict[str, Any] = {"autoseg_version": "1", "model": "run", "volume_unit": "ml", "calibration": ""} | fields
    write_document(out / "quality.json", QualityReport(**known, cases=cases))


def read_plan(run: RunFolder) -> Plan:
    return read_document(run.plan, Plan)


@pytest.mark.parametrize(
    "fields", [{"compared": False}, {"calibration": "no Dice is estimated: ...; nor are there any flags"}]
)
def test_images_that_were_compared_with_nothing_are_not_said_to_be_usual(
    scored: RunFolder, tmp_path: Path, fields: dict[str, Any]
) -> None:
    out = write_predictions(tmp_path / "out")
    write_quality(out, tuple(build_quality(f"case{index}", dice=None) for index in range(4)), **fields)
    found = read_predictions(out, read_plan(scored), None)
    section = describe_predictions(found, out, read_plan(scored))
    assert section.lead.startswith("4 predicted images, not compared with the training cases")
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert [row[-1] for row in table.rows] == ["not compared"] * 4
    compared = read_predictions(out, read_plan(scored), read_contents(scored.root).fingerprint)  # by their volumes
    assert [case.name for case in compared.cases if case.concerns] == ["case2", "case3"]
    assert len(compared.compared) == 4


def test_flags_and_expected_dice_say_what_to_look_at_first(scored: RunFolder, tmp_path: Path) -> None:
    out = write_predictions(tmp_path / "out")
    flag = Flag(kind="intensity", deviation=2.0, text="MR: too <bright>")
    cases = (
        build_quality("case0", dice=0.9),
        build_quality("case1", dice=0.85, flags=(flag,)),
        build_quality("case2", dice=0.5).model_copy(update={"plausibility": 0.75}),
    )
    write_quality(out, cases, calibration="calibrated on <25> cases")
    text = write(scored, predictions=out, out=tmp_path / "report.html")
    section = text[text.index('<section id="predictions">') : text.index('<section id="dataset">')]
    names = [name for name in re.findall(r"<td>(case\d)</td>", section) if name != "case3"]
    assert names == ["case1", "case2", "case0"]
    assert "MR: too &lt;bright&gt;" in section
    assert "bright, expected Dice" in section
    assert "0.900 [0.800, 0.950]" in section
    assert re.search(r'data-value="0.85">0.850 \[0.750, 0.900\]</td>', section)  # sorted by the number itself
    volume = {case.name: case.volumes_ml["bright"] for case in read_predictions(out, read_plan(scored), None).cases}
    assert f"{volume['case0']:.2f} [{0.9 * volume['case0']:.2f}, {1.1 * volume['case0']:.2f}]" in section
    assert "plausibility</button>" in section
    assert '<td class="number" data-value="0.75">0.750</td>' in section
    assert section.index("quality: calibrated on &lt;25&gt; cases") < section.index("<table>")
    assert "0.500 [0.400, 0.550]" in text


def test_results_in_other_formats_and_voxels_beside_a_header_are_no_images(scored: RunFolder, tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "out")
    for name in ("case0.seg.dcm", "case0.rtstruct.dcm", "case0.b2nd"):
        (folder / name).write_bytes(b"of no interest here")
    save(folder / "pair.img", make_case(0)[1])
    assert (folder / "pair.hdr").is_file()
    plan = read_document(scored.plan, Plan)
    names = [case.path.name for case in read_predictions(folder, plan, None).cases]
    assert names == [*(f"case{index}.nii.gz" for index in range(4)), "pair.hdr"]


def test_volumes_of_images_without_spacing_are_voxels(scored: RunFolder, tmp_path: Path) -> None:
    plan = read_document(scored.plan, Plan).model_copy(update={"distance_unit": "pixel"})
    fingerprint = read_contents(scored.root).fingerprint
    first = read_predictions(write_predictions(tmp_path / "out"), plan, fingerprint).cases[1]
    assert any("1000 voxels, in training" in concern for concern in first.concerns)
    assert all("ml" not in value for _, value in first.details)


def write_series_record(out: Path, outputs: dict[str, str]) -> None:
    """What predicting series of DICOM records."""
    record = PredictionRecord(
        autoseg_version="1",
        model="run",
        images="DICOM",
        configuration=CONFIGURATION,
        folds=("0",),
        weights_sha256=("abc",),
        mirroring=True,
        step_fraction=0.5,
        number_type="float32",
        probabilities=False,
        outputs=outputs,
        versions=read_versions(),
    )
    write_document(out / "prediction.json", record)


def test_series_of_dicom_lead_to_no_image(scored: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_predictions(tmp_path / "out")
    write_series_record(out, {f"case{index}.nii.gz": f"case{index}" for index in range(4)})
    (tmp_path / "DICOM" / "case0").mkdir(parents=True)  # the folder of a series, seen from here
    monkeypatch.chdir(tmp_path)
    cases = read_predictions(out, read_document(scored.plan, Plan), None).cases
    assert [case.image for case in cases] == [None] * 4
    told = Remembered()
    write_report(scored.root, out=tmp_path / "report.html", predictions=out, progress=told)
    assert "shown without their images, as nothing tells where they are (--images)" in told.text


def test_series_of_dicom_are_found_in_a_folder_that_is_named(scored: RunFolder, tmp_path: Path) -> None:
    folder = write_series(tmp_path / PATIENT, np.arange(60).reshape(3, 4, 5), number=3)
    (series,) = find_series(folder).series
    out, name = tmp_path / "out", f"{series.uid}.nii.gz"
    out.mkdir()
    write_label_map(out / name, np.full((3, 4, 5), 2, np.uint8), grid=stack_slices(series).grid, like=None)
    write_series_record(out, {name: series.uid})
    text = write(scored, predictions=out, images=tmp_path, out=tmp_path / "report.html")
    (shown,) = [case for case in read_data(text)["cases"] if case["name"] == series.uid]
    assert shown["hasImage"]
    assert PATIENT.split("^")[0] not in text
    with pytest.raises(OptionError, match="give --predictions as well"):
        write(scored, images=tmp_path)


def test_a_file_that_is_no_report_is_not_replaced(scored: RunFolder, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.html"
    thesis.write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.html is no report, and would be replaced"):
        write(scored, out=thesis)
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize("kind", ["empty", "foreign values"])
def test_a_folder_without_predictions_of_the_run_is_refused(scored: RunFolder, tmp_path: Path, kind: str) -> None:
    (tmp_path / "out").mkdir()
    if kind == "foreign values":
        save(tmp_path / "out" / "case.nii.gz", make_case(0)[1] + 1)
    with pytest.raises(PredictionError, match="autoseg predict" if kind == "empty" else "found 1"):
        read_predictions(tmp_path / "out", read_document(scored.plan, Plan), None)


@pytest.mark.parametrize("is_installed", [True, False])
def test_without_the_viewer_the_page_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    script = tmp_path / "niivue.umd.js"
    if is_installed:
        script.write_text("viewer")
    monkeypatch.setattr("autoseg.report.viewer.SCRIPT", script)
    case = ShownCase(key="a", name="a", volumes={"image": b"compressed"}, pictures=[("image", "data:image/webp;")])
    section = Section("cases", "Cases", "", [Gallery("", [("a", "")])])
    text = Page(title="", subtitle="", sections=[section], cases=[case]).render()
    assert ('id="viewer-code"' in text) == is_installed
    assert ("Redistribution and use" in text) == is_installed
    assert ("make viewer" in text) != is_installed
    assert 'src="data:image/webp;"' in text


def test_nothing_is_loaded_from_elsewhere(text: str) -> None:
    code = re.sub(r"<script type=.*?</script>|<svg.*?</svg>", "", text, flags=re.DOTALL)
    assert "default-src 'none'" in code
    assert re.findall(r"(?:src|href)=[\"']?(?!data:|#)[^\"'\s>]+", code) == []
    assert "http://" not in code.replace("http-equiv", "")
    assert "https://" not in code
