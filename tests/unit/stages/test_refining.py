"""`autoseg refine` corrects a label map by clicks."""

import json
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import typer
from builders.fingerprints import build_fingerprint
from builders.labels import build_labels
from builders.objects import CELLS

from autoseg.cli.app import app
from autoseg.cli.refine import refine as command_function
from autoseg.document import write_document
from autoseg.errors import AutosegError, PredictionError, RunError
from autoseg.fingerprint import Machine
from autoseg.geometry import Grid
from autoseg.plan import Plan
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map, write_image, write_label_map
from autoseg.workflows.refine.clicks import Click, read_clicks
from autoseg.workflows.refine.refining import find_refinement, refine_label_map
from planners import PLANNERS
from planners.refinement import add_refinement

FIRST, REFINE = "3d_fullres", "3d_fullres_refine"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "correction.md"
GRID = Grid(
    shape_voxels=(10, 12, 8),
    spacing_mm=(2.0, 1.0, 1.0),
    origin_mm=(10.0, 20.0, 30.0),
    direction=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)),
)
LABELS = build_labels({"liver": (3,), "tumour": (7,), "both": (3, 7)}, region_write_values=(3, 7, 3), ignore_value=9)


MARKUPS = {"controlPoints": [{"label": "3", "position": [-7, -24, 34]}]}


def save(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", {"clicks": [{"position_mm": [7.2, 24, 34.3], "label": 7}, {"voxel": [1, 2, 3], "label": "liver"}]}),
        ("a.CSV", "label,x_mm,y_mm,z_mm\ntumour, 7.2, 24, 34.3\n3, 9, 22, 36\n"),
        ("a.csv", "i,j,k,label\n3,4,2,7\n1,2,3,3\n"),
        ("a.csv", "index,axis-0,axis-1,axis-2,label\n0,2.0,4.4,2.8,7\n1,3,2,1,liver\n"),
        (
            "a.mrk.json",
            {
                "markups": [
                    {"coordinateSystem": "LPS", "controlPoints": [{"label": "tumour-1", "position": [-7, -24, 34]}]},
                    {
                        "coordinateSystem": "RAS",
                        "controlPoints": [
                            {"label": "3", "position": [9, 22, 36], "positionStatus": "defined"},
                            {"label": "3", "position": "", "positionStatus": "undefined"},
                        ],
                    },
                ]
            },
        ),
    ],
)
def test_clicks_are_read_in_world_coordinates_and_as_voxels(tmp_path, name, content):
    clicks = read_clicks(save(tmp_path / name, content), GRID, LABELS)
    assert clicks == (Click(voxel=(2, 4, 3), label=2), Click(voxel=(3, 2, 1), label=1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"\.json, \.csv and \.mrk\.json"),
        ("a.json", [], "an object with a list 'clicks'"),
        ("a.json", {"clicks": [{"voxel": [1, 2, 3]}]}, r"clicks\.0: a click has a label, and either"),
        ("a.json", {"clicks": [{"voxel": [1, 2], "label": 3}]}, r"three numbers \(x, y, z\), found \[1, 2\]"),
        ("a.json", {"clicks": [{"voxel": [1, 2, 3], "label": True}]}, "no label is called True"),
        ("a.json", {"clicks": [{"voxel": [1, 2, 3], "label": 9}]}, "no label is called 9; expected one of: 0, 3, 7,"),
        ("a.json", {"clicks": [{"voxel": [1, 2, 3], "label": "both"}]}, "background, liver, tumour$"),
        (
            "a.json",
            {"clicks": [{"voxel": [8, 2, 3], "label": 3}]},
            r"outside the image.*\(8, 12, 10\), found \(8, 2, 3\)",
        ),
        ("a.csv", "i,j,k,label\n1,2,10,3\n", r"line 2: the click is outside the image"),
        ("a.csv", "i,k,label\n1,2,3\n", r"the first line names columns.*found i, k, label"),
        ("a.csv", "i,j,label\n1,2,3\n", r"line 2: a voxel of an image of 10 slices is three numbers .* add the slice"),
        ("a.csv", "index,axis-0,axis-1,label\n0,1,2,3\n", "an image of 10 slices is three numbers"),
        ("a.csv", "i,j,k,label\n1,2,x,3\n", "three numbers"),
        (
            "a.csv",
            "x_mm,y_mm,z_mm,label\n7,2,24,34,3,7\n",
            "line 2: expected 4 values, .* found 6; write decimals with a",
        ),
        ("a.json", {"clicks": [{"voxel": "123", "label": 3}]}, "three numbers"),
        ("a.json", {"clicks": [{"voxel": [True, 2, 3], "label": 3}]}, "three numbers"),
        ("a.mrk.json", {"markups": [{"controlPoints": [{"label": "3"}]}]}, "three numbers"),
        (
            "a.mrk.json",
            {"markups": [MARKUPS | {"coordinateSystem": "IJK"}]},
            r"markups\.0: .* LPS or RAS in mm, found 'IJK'",
        ),
        ("a.mrk.json", {"markups": [MARKUPS | {"coordinateUnits": "um"}]}, r"LPS or RAS in mm, found 'LPS' in 'um'"),
    ],
)
def test_clicks_that_say_nothing_are_refused_by_their_place(tmp_path, name, content, message):
    with pytest.raises(PredictionError, match=message):
        read_clicks(save(tmp_path / name, content), GRID, LABELS)


PICTURE = Grid(shape_voxels=(1, 5, 7), spacing_mm=(999.0, 1.0, 1.0), is_oriented=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", {"clicks": [{"voxel": [6, 4], "label": 7}]}),
        ("a.csv", "i,j,label\n6,4,7\n"),
        ("a.csv", "index,axis-0,axis-1,label\n0,4.2,5.8,7\n"),
        ("a.csv", "i,j,k,label\n6,4,0,7\n"),
    ],
)
def test_clicks_in_an_image_of_one_slice_need_no_slice(tmp_path, name, content):
    assert read_clicks(save(tmp_path / name, content), PICTURE, LABELS) == (Click(voxel=(0, 4, 6), label=2),)


def test_a_click_beside_a_picture_is_refused(tmp_path):
    with pytest.raises(PredictionError, match=r"outside the image.*\(7, 5, 1\), found \(4, 6, 0\)"):
        read_clicks(save(tmp_path / "a.csv", "i,j,label\n4,6,7\n"), PICTURE, LABELS)


def test_pictures_have_no_world_coordinates(tmp_path):
    path = save(tmp_path / "a.csv", "x_mm,y_mm,z_mm,label\n1,1,0,3\n")
    with pytest.raises(PredictionError, match="pictures have no world coordinates"):
        read_clicks(path, PICTURE, LABELS)


@pytest.fixture
def place(tmp_path, run, describe_plan, train):
    """A run whose networks are drawn at random, an image, and a label map without objects."""
    content = describe_plan()
    for name in ("third", "3d_cascade_fullres", "3d_lowres"):
        del content["configurations"][name]
    plan = add_refinement(Plan.model_validate(content), FIRST)
    write_document(run.plan, plan)
    train(plan, REFINE, "0", is_random=True)
    run.root.rename(tmp_path / "abdomen.autoseg")
    image = np.random.default_rng(5).normal(1, 0.1, GRID.shape_voxels).astype(np.float32)
    image[:2] = 0  # is cropped
    write_image(tmp_path / "image.nii.gz", image, grid=GRID)
    write_label_map(tmp_path / "label_map.nii.gz", np.zeros(GRID.shape_voxels, np.uint8), grid=GRID, like=None)
    save(tmp_path / "clicks.csv", "i,j,k,label\n3,4,5,2\n3,4,6,0\n0,0,0,class3\n3,4,6,1\n")
    return tmp_path


def refine(place, *, out="corrected.nii.gz", clicks="clicks.csv", **request):
    options = {"image": "image.nii.gz", "label_map": "label_map.nii.gz"} | {
        key: request.pop(key) for key in ("image", "label_map") if key in request
    }
    changed = refine_label_map(
        place / "abdomen.autoseg",
        *(place / name for name in options.values()),
        clicks=place / clicks,
        out=place / out,
        device="cpu",
        **request,
        progress=SilentProgress(),
    )
    return changed, read_label_map(place / out)


def test_clicked_voxels_have_their_label_and_clicks_reach_the_network(place):
    changed, corrected = refine(place)
    assert [corrected.array[voxel] for voxel in [(5, 4, 3), (6, 4, 3), (0, 0, 0)]] == [2, 1, 3]
    assert corrected.grid == GRID
    assert changed == (corrected.array != 0).sum()
    save(place / "none.json", {"clicks": []})
    _, without = refine(place, clicks="none.json", out="without.nii.gz")
    assert ((corrected.array != without.array).sum()) > 3
    _, again = refine(place, out="again.nii.gz")
    assert np.array_equal(corrected.array, again.array)


def test_what_does_not_fit_is_refused(place):
    refine(place)
    with pytest.raises(RunError, match=r"corrected\.nii\.gz exists; .* --overwrite"):
        refine(place)
    refine(place, overwrite=True)
    with pytest.raises(PredictionError, match=r"expected the name of a label map, such as corrected\.nii\.gz"):
        refine(place, out="corrected")
    with pytest.raises(PredictionError, match=r"--out .*image\.nii\.gz is read by this command; name another file"):
        refine(place, out="image.nii.gz", overwrite=True)
    with pytest.raises(PredictionError, match="found '3d_fullres'; name one of: 3d_fullres_refine"):
        refine(place, out="b.nii.gz", configuration=FIRST)
    with pytest.raises(PredictionError, match=r"expected one image, found 0|no image|image"):
        refine(place, out="b.nii.gz", image="other.nii.gz")
    write_label_map(place / "wrong.nii.gz", np.full(GRID.shape_voxels, 8, np.uint8), grid=GRID, like=None)
    with pytest.raises(
        PredictionError, match=r"expected the values 0, 1, 2, 3, which .*_refine was trained with, found 8"
    ):
        refine(place, out="b.nii.gz", label_map="wrong.nii.gz")
    other = Grid(shape_voxels=(5, 12, 8), spacing_mm=(4.0, 1.0, 1.0))
    write_label_map(place / "wrong.nii.gz", np.zeros((5, 12, 8), np.uint8), grid=other, like=None)
    with pytest.raises(AutosegError, match=r"wrong\.nii\.gz \(found\) and .*image\.nii\.gz \(expected\)"):
        refine(place, out="b.nii.gz", label_map="wrong.nii.gz")
    assert not (place / "b.nii.gz").exists()


def test_a_run_without_such_a_configuration_says_how_to_get_one(run):
    root = run.root.rename(run.root.with_name("a run"))
    told = rf"autoseg plan DATASET --run '{root}' --refine third.* autoseg train '{root}' --configuration third_ref"
    with pytest.raises(PredictionError, match=told):
        find_refinement(RunFolder(root), None, source=root)


def test_a_model_file_names_the_run_that_it_was_exported_from(run, tmp_path):
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("model.json", "{}")
    told = (
        rf"{archive} has no .*in the run that {archive} was exported from with: autoseg plan DATASET --run RUN --refine"
    )
    with pytest.raises(PredictionError, match=told) as refused:
        find_refinement(run, None, source=archive)
    assert str(run.root) not in str(refused.value)
    nnunet = tmp_path / "Dataset001_A"
    (nnunet / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        (nnunet / name).write_text("{}")
    with pytest.raises(PredictionError, match=r"models of nnU-Net have none: plan and train a run of autoseg"):
        find_refinement(run, None, source=nnunet)


def test_a_run_of_instances_is_not_told_to_plan_what_planning_refuses(run):
    fingerprint = build_fingerprint(
        (999.0, 1.0, 1.0), (1, 64, 64), labels=CELLS.target_labels, targets=CELLS, has_instances=True
    )
    machine = Machine(accelerator_memory_gb=None, budget_seconds=None)
    write_document(run.plan, PLANNERS["default"].plan(fingerprint, machine))
    with pytest.raises(PredictionError, match=r"clicks do not go with objects .*--task instances") as refused:
        find_refinement(run, None, source=run.root)
    assert "--refine" not in str(refused.value)


@pytest.fixture
def run_command(capsys):
    """Calls the command in this process with words as of a command line, and returns what it prints."""

    def call(*words):
        command = typer.main.get_command(app).commands["refine"]
        options = command.make_context("refine", list(words)).params
        paths = {name: Path(options[name]) for name in ("run", "image", "label_map", "clicks", "out")}
        command_function(**options | paths | {"fold": list(options["fold"] or ()) or None})
        captured = capsys.readouterr()
        return captured.out + captured.err

    return call


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the sources: pages are not installed")
def test_the_page_about_correction_runs(place, run_command, monkeypatch):
    """Planning and training, which take a dataset and minutes, are only looked at."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for kind, block in blocks if kind == "sh" for line in block.splitlines()]
    assert [command[1] for command in commands] == ["plan", "train", "refine"]
    assert commands[0][-2:] == ["--refine", FIRST]
    assert commands[1][2:] == ["abdomen.autoseg", "--configuration", REFINE]
    assert f"{FIRST}_refine" == REFINE
    ((_, clicks),) = [pair for pair in blocks if pair[0] == "json"]
    save(place / "clicks.json", clicks)
    monkeypatch.chdir(place)
    told = run_command(*commands[2][2:], "--device", "cpu")
    assert re.search(r"^\d+ voxels changed: corrected.nii.gz$", told, flags=re.MULTILINE)
    corrected = read_label_map(place / "corrected.nii.gz").array
    names = {"__name__": "__documentation__"}
    ((_, snippet),) = [pair for pair in blocks if pair[0] == "python"]
    exec(compile(snippet, str(PAGE), "exec"), names)
    assert np.array_equal(names["corrected"], corrected)
