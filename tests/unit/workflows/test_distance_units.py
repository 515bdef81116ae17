"""From files that tell no spacing to what a person reads about their distances."""

import csv
import io
import json

import numpy as np
import pytest
import SimpleITK
import tifffile
from builders.labels import build_labels
from PIL import Image
from rich.console import Console as RichConsole

from autoseg.cli.terminal.console import Console
from autoseg.cli.terminal.reports import print_cases, print_crossvalidation, print_summary
from autoseg.evaluation.crossvalidation import CrossValidation, score_configuration, write_crossvalidation
from autoseg.geometry import Grid, find_distance_unit
from autoseg.postprocessing.rules import find_size_unit, require_minimum_size
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import read_grid
from autoseg.workflows.evaluate.evaluation import EvaluationJob, evaluate_jobs

LABELS = build_labels({"cell": (1,)})


def draw(*shape, shift):
    label_map = np.zeros(shape, np.uint8)
    label_map[..., 4:9, 4 + shift : 9 + shift] = 1
    return label_map


def write_picture(path, array):
    Image.fromarray(array).save(path)


def write_plain_stack(path, array):
    tifffile.imwrite(path, np.stack([array] * 3), photometric="minisblack")


def write_stack_with_spacing(path, array):
    write_plain_stack(path, array)
    path.with_suffix(".json").write_text(json.dumps({"spacing": [2.0, 1.0, 1.0]}))


def write_volume(path, array):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.stack([array] * 3)), str(path))


FORMATS = [
    (".png", write_picture, "pixel"),
    (".tif", write_picture, "pixel"),
    (".tif", write_plain_stack, "pixel"),
    (".tif", write_stack_with_spacing, "mm"),
    (".nii.gz", write_volume, "mm"),
]


@pytest.fixture
def evaluate(tmp_path):
    """Two cases of equal errors, evaluated."""

    def run(ending, write):
        jobs = []
        for case in ("a", "b"):
            paths = [tmp_path / f"{case}_{role}{ending}" for role in ("prediction", "reference")]
            for path, shift in zip(paths, (0, 2), strict=True):
                write(path, draw(16, 16, shift=shift))
            jobs.append(EvaluationJob(case=case, prediction=paths[0], reference=paths[1], labels=LABELS))
        return evaluate_jobs(jobs, folder=tmp_path, progress=SilentProgress())

    return run


def show(printer, result):
    output = io.StringIO()
    printer(Console(RichConsole(file=output, width=200)), result)
    return output.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stored", FORMATS)
def test_tables_and_files_of_an_evaluation_name_the_unit_of_the_references(evaluate, tmp_path, stored):
    ending, write, unit = stored
    summary = evaluate(ending, write)
    assert summary.distance_unit == unit
    assert summary.mean["1"].HD95 == 2.0
    assert json.loads((tmp_path / "summary.json").read_text())["distance_unit"] == unit
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert {row["distance_unit"] for row in rows} == {unit}
    assert [row["row"] for row in rows] == ["case", "case", "mean", "std", "count", "foreground_mean"]
    result = CrossValidation(
        class_names=summary.class_names,
        distance_unit=summary.distance_unit,
        configurations={"2d": score_configuration({"0": summary})},
    )
    write_crossvalidation(tmp_path / "c.json", tmp_path / "c.csv", result)
    assert {row["distance_unit"] for row in csv.DictReader((tmp_path / "c.csv").open())} == {unit}
    for printer, shown in ((print_cases, summary), (print_summary, summary), (print_crossvalidation, result)):
        text = show(printer, shown)
        assert ("HD95 (mm)" in text, "NSD (1 mm)" in text) == (unit == "mm",) * 2
        assert ("HD95 (pixels)" in text, "NSD (1 pixel)" in text) == (unit == "pixel",) * 2
        assert ("(ml)" in text) == (unit == "mm" and printer is not print_crossvalidation)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stored", FORMATS)
def test_sizes_of_components_are_counted_in_the_unit_of_the_images(tmp_path, stored):
    ending, write, unit = stored
    path = tmp_path / f"a{ending}"
    write(path, draw(16, 16, shift=0))
    found = find_size_unit([read_grid(path)])
    assert found == ("pixel" if unit == "pixel" else "mm3")
    rule = require_minimum_size(LABELS, 0, 20.0, found)
    assert rule.describe() == f"remove components of cell below 20 {'pixels' if unit == 'pixel' else 'mm3'}"


def test_single_slices_with_spacing_have_areas():
    grid = Grid(shape_voxels=(1, 8, 8), spacing_mm=(999.0, 1.0, 1.0))
    assert find_size_unit([grid, grid]) == "mm2"
    assert require_minimum_size(LABELS, 0, 20.0, "mm2").describe() == "remove components of cell below 20 mm2"
    assert find_size_unit([grid, Grid(shape_voxels=(2, 8, 8), spacing_mm=(1.0, 1.0, 1.0))]) == "mm3"


def test_one_image_that_tells_a_spacing_makes_lengths_millimetres():
    plain = Grid(shape_voxels=(1, 8, 8), spacing_mm=(999.0, 1.0, 1.0), tells_spacing=False)
    assert find_distance_unit([plain, plain]) == "pixel"
    assert find_distance_unit([plain, Grid(shape_voxels=(1, 8, 8), spacing_mm=(2.0, 1.0, 1.0))]) == "mm"
    assert find_distance_unit([]) == "mm"
    assert plain.describe() == "8 x 8 pixels (y, x), no spacing"
