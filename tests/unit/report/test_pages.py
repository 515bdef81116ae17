"""Volumes, pictures, charts and blocks of a page."""

import gzip
import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from builders.balls import AFFINE, make_case, save

from autoseg.errors import RunError, VolumeError
from autoseg.geometry import Grid, build_grid_from_affine
from autoseg.report.blocks import Gallery, Section, Table
from autoseg.report.charts import MOST_POINTS, draw_intervals, draw_strips
from autoseg.report.page import Page, ShownCase, dump_json
from autoseg.report.pictures import draw_slices, locate_slices
from autoseg.report.volumes import CaseVolumes, find_errors, scale_to_bytes
from autoseg.workflows.report.predicted_cases import find_concerns
from autoseg.workflows.report.viewing import build_view, write_view


def build_volumes(shape=(10, 30, 40), *, spacing=(4.0, 1.0, 1.0), **changes) -> CaseVolumes:
    label_map = np.zeros(shape, np.int16)
    label_map[4:6, 12:16, 20:24] = 1
    image = np.random.default_rng(0).normal(100, 20, (1, *shape)).astype(np.float32)
    fields = {"image": image, "label_maps": {"labels": label_map}, "grid": Grid(shape_voxels=shape, spacing_mm=spacing)}
    return CaseVolumes(**fields | changes)


def read_nifti(content: bytes):
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def test_volumes_are_cropped_around_the_labels():
    prepared = build_volumes().prepare()
    assert prepared.grid.shape_voxels == (10, 16, 16)
    assert prepared.image.dtype == np.uint8
    assert (prepared.label_maps["labels"] > 0).sum() == 32


def test_without_labels_the_whole_image_is_kept():
    empty = build_volumes(label_maps={"labels": np.zeros((10, 30, 40), np.int16)})
    assert empty.prepare().grid.shape_voxels == (10, 30, 40)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
def test_the_left_of_the_patient_is_always_at_the_same_side(signs):
    label_map = np.zeros((10, 30, 40), np.int16)
    world_left = slice(0, 3) if signs[0] > 0 else slice(37, 40)  # the first letter of the world grows to the right
    label_map[4:6, 12:16, world_left] = 1
    grid = build_grid_from_affine(np.diag([*signs, 1.0]), (10, 30, 40))
    turned = build_volumes(label_maps={"labels": label_map}, grid=grid)._orient()
    assert turned.label_maps["labels"][..., 37:].sum() == label_map.sum()


def test_a_volume_becomes_a_nifti_file_of_the_same_voxels():
    prepared = build_volumes().prepare()
    encoded = prepared.encode_all(most_bytes=2**20)
    assert set(encoded) == {"image", "labels"}
    stored = read_nifti(encoded["labels"])
    assert np.array_equal(np.asarray(stored.dataobj).T, prepared.label_maps["labels"])
    assert np.allclose(np.abs(np.diag(stored.affine)[:3]), (1, 1, 4))
    assert encoded == prepared.encode_all(most_bytes=2**20)


@pytest.mark.parametrize("most_bytes", [3000, 900])
def test_volumes_become_coarser_until_they_fit(most_bytes):
    encoded = build_volumes(shape=(32, 32, 32), spacing=(1.0, 1.0, 1.0)).prepare().encode_all(most_bytes=most_bytes)
    assert sum(map(len, encoded.values())) <= most_bytes
    assert read_nifti(encoded["labels"]).shape == read_nifti(encoded["image"]).shape


def test_the_finest_axes_become_coarser_first():
    grid = build_volumes().shrink().grid
    assert grid.shape_voxels == (10, 15, 20)
    assert grid.spacing_mm == (4.0, 2.0, 2.0)


def test_errors_are_missed_false_or_of_another_class():
    reference, prediction = np.array([[[0, 1, 1, 2, 0]]]), np.array([[[0, 1, 0, 1, 2]]])
    assert find_errors(reference, prediction).tolist() == [[[0, 0, 1, 3, 2]]]


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_constant_images_are_scaled_without_a_warning(value):
    assert scale_to_bytes(np.full((1, 2, 3, 4), value, np.float32)).dtype == np.uint8


def test_more_labels_than_a_byte_holds_keep_apart_from_background():
    labels = np.arange(600, dtype=np.int32).reshape(6, 10, 10)
    shown = build_volumes((6, 10, 10), label_maps={"labels": labels})._convert().label_maps["labels"]
    assert np.array_equal(shown > 0, labels > 0)


def test_slices_are_where_most_of_the_labels_or_errors_are():
    volumes = build_volumes()
    assert 4 <= locate_slices(volumes)[0] < 6
    errors = np.zeros((10, 30, 40), np.uint8)
    errors[8, 3, 5] = 1
    assert locate_slices(replace(volumes, label_maps={"errors": errors} | dict(volumes.label_maps))) == (8, 3, 5)


@pytest.mark.parametrize("shape", [(10, 30, 40), (1, 30, 40)])
@pytest.mark.parametrize("layer", ["labels", None])
def test_slices_become_a_picture_inside_the_page(shape, layer):
    label_map = np.zeros(shape, np.int16)
    label_map[:, 10:15, 10:15] = 1
    picture = draw_slices(build_volumes(shape, label_maps={"labels": label_map}).prepare(), layer)
    assert picture.startswith("data:image/webp;base64,")
    assert len(picture) < 40_000


def test_charts_take_the_colours_of_the_page():
    svg = draw_strips({"liver": [1.0, 2.0, 3.0], "<b>": []}, label="ml", is_logarithmic=True)
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    assert "var(--ink)" in svg
    assert "var(--series-0)" in svg
    assert "#0102" not in svg
    assert "&lt;b&gt;" in svg
    assert "mathdefault" not in svg
    assert svg == draw_strips({"liver": [1.0, 2.0, 3.0], "<b>": []}, label="ml", is_logarithmic=True)


def test_charts_of_many_points_stay_small():
    assert len(draw_strips({"liver": list(np.linspace(0, 1, MOST_POINTS + 1))}, label="Dice")) < 20_000


def test_a_mean_without_interval_is_a_point_alone():
    with_interval = draw_intervals({"liver": {"2d": (0.5, 0.4, 0.6)}}, label="Dice")
    assert len(draw_intervals({"liver": {"2d": (0.5, None, None)}}, label="Dice")) < len(with_interval)


@pytest.mark.parametrize("text", ["</script>", "<!--", "a & b", "\u2028"])
def test_json_cannot_end_the_element_that_it_stands_in(text):
    dumped = str(dump_json({"name": text}))
    assert not set("<>&\u2028") & set(dumped)
    assert json.loads(dumped) == {"name": text}


def test_undefined_numbers_are_dashes_and_numbers_stay_sortable():
    table = Table(("case", "Dice", "voxels"), [("a", 0.51239, 3), ("b", None, 4)], formats={"voxels": ","})
    assert [table.format_cell(*pair) for pair in zip(table.columns, table.rows[0], strict=True)] == ["a", "0.512", "3"]
    assert table.format_cell("Dice", None) == "-"
    assert [table.is_numeric(index) for index in range(3)] == [False, True, True]


def test_an_empty_page_is_a_page():
    text = Page(title="<empty>", subtitle="", sections=[]).render()
    assert "<title>&lt;empty&gt;</title>" in text
    assert text.endswith("</html>")


def test_volumes_are_left_out_until_the_page_is_small_enough(tmp_path, monkeypatch):
    volumes = {"image": bytes(30_000)}
    cases = [ShownCase(key=name, name=name, volumes=volumes) for name in "abcd"]
    page = Page(title="", subtitle="", sections=[], cases=cases)
    monkeypatch.setattr("autoseg.report.viewer.SCRIPT", tmp_path / "missing")
    monkeypatch.setattr("autoseg.report.page.MOST_PAGE_BYTES", 120_000)
    size = page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert size == len(text.encode()) <= 120_000
    assert text.count('id="volume-') == 2


def build_page_of_many(count, *, volumes):
    """The case that is shown as the best one stands in the last row."""
    keys = [f"case{index}" for index in range(count)]
    table = Table(
        ("case", "Dice"), [(key, 0.5) for key in keys], cases=keys, title="Held-out cases", source="all are in a file"
    )
    others = Table(("class", "cases"), [("liver", count)])
    section = Section("cases", "Cases", "", [Gallery("", [(keys[-1], "best")]), table, others])
    cases = [ShownCase(key=key, name=key, volumes=volumes if index < 4 else {}) for index, key in enumerate(keys)]
    return Page(title="", subtitle="", sections=[section], cases=cases)


@pytest.mark.parametrize(("row_bytes", "kept_volumes"), [(60_000, 4), (10**9, 0)], ids=["rows first", "volumes first"])
def test_of_more_cases_than_the_page_can_hold_the_first_rows_are_kept_and_that_is_said(
    tmp_path, monkeypatch, row_bytes, kept_volumes
):
    page = build_page_of_many(800, volumes={"image": bytes(6_000)})
    monkeypatch.setattr("autoseg.report.viewer.SCRIPT", tmp_path / "missing")
    monkeypatch.setattr("autoseg.report.page.MOST_PAGE_BYTES", 150_000)
    monkeypatch.setattr("autoseg.report.page.MOST_ROW_BYTES", row_bytes)
    assert page.write(tmp_path / "page.html") <= 150_000
    text = (tmp_path / "page.html").read_text()
    rows = re.findall(r'<tr tabindex="0" data-case="\d+">\s*<td>(case\d+)</td>', text)
    assert rows == [f"case{index}" for index in range(len(rows))]
    assert 100 <= len(rows) < 800
    assert f"{len(rows):,} of 800 rows, those to be looked at first: this page has a limited size; all are" in text
    assert text.count('id="volume-') == kept_volumes
    (data,) = re.findall(r'id="data">(.*?)</script>', text)
    assert [case["name"] for case in json.loads(data)["cases"]] == [*rows, "case799"]  # the best one is in the gallery
    assert "<td>liver</td>" in text


def test_a_page_that_has_all_rows_does_not_speak_of_fewer(tmp_path):
    assert "limited size" not in build_page_of_many(200, volumes={}).render().partition("<script>")[0]


@pytest.mark.parametrize(
    ("volume", "is_unusual"), [(10.0, False), (11.5, False), (30.0, True), (3.0, True), (0.0, True)]
)
def test_a_volume_far_from_those_of_training_is_a_concern(volume, is_unusual):
    urgency, concerns = find_concerns({"liver": volume}, {"liver": (8.0, 10.0, 12.0, 0.1)})
    assert (urgency > 3) == is_unusual
    assert bool(concerns) == is_unusual


def test_a_class_that_training_cases_may_lack_may_be_missing():
    assert find_concerns({"tumour": 0.0}, {"tumour": (0.0, 10.0, 12.0, 0.1)}) == (0.0, ())


def test_any_image_can_be_viewed_with_label_maps(tmp_path):
    image, label_map = make_case(0)
    paths = [save(tmp_path / name / "case.nii.gz", label_map) for name in ("a", "b")]
    page = build_view(save(tmp_path / "case.nii.gz", image), paths)
    assert list(page.cases[0].volumes) == ["image", "a/case", "b/case"]
    assert page.label_names == ["2", "5"]
    assert "<h1>case</h1>" in page.render()


def test_no_two_layers_have_one_name_whatever_the_files_are_called(tmp_path):
    image, label_map = make_case(0)
    places = ("a/image", "b/errors", "c/x/case", "d/x/case", "d/x/case")
    paths = [save(tmp_path / f"{place}.nii.gz", label_map) for place in places]
    names = list(build_view(save(tmp_path / "case.nii.gz", image), paths).cases[0].volumes)
    assert names == ["image", "a/image", "b/errors", str(paths[2]), str(paths[3])]


def test_a_page_never_replaces_a_file_that_it_shows(tmp_path):
    image, label_map = make_case(0)
    paths = [save(tmp_path / f"{name}.nii.gz", array) for name, array in (("image", image), ("labels", label_map))]
    before = paths[1].read_bytes()
    with pytest.raises(RunError, match=r"labels\.nii\.gz is one of the files that are to be shown"):
        write_view(paths[0], paths[1:], paths[1])
    assert paths[1].read_bytes() == before
    notes, page = tmp_path / "notes.html", tmp_path / "case.html"
    notes.write_text("<title>what I found</title>")
    with pytest.raises(RunError, match=r"notes\.html is no page of autoseg, and would be replaced"):
        write_view(paths[0], paths[1:], notes)
    assert notes.read_text() == "<title>what I found</title>"
    assert write_view(paths[0], (), page) < write_view(paths[0], paths[1:], page) == page.stat().st_size


def test_an_image_can_be_viewed_alone(tmp_path):
    page = build_view(save(tmp_path / "case.nii.gz", make_case(0)[0]), [])
    assert list(page.cases[0].volumes) == ["image"]


def test_label_maps_of_another_shape_are_refused(tmp_path):
    image, label_map = make_case(0)
    path = save(tmp_path / "labels.nii.gz", label_map[1:])
    with pytest.raises(VolumeError, match=r"labels.nii.gz: expected the grid of the image .* resample it"):
        build_view(save(tmp_path / "case.nii.gz", image), [path])


def test_label_maps_that_lie_elsewhere_are_refused_and_not_drawn_upon_the_image(tmp_path):
    image, label_map = make_case(0)
    path = save(tmp_path / "labels.nii.gz", label_map[::-1], AFFINE @ np.diag([-1, 1, 1, 1]))
    with pytest.raises(VolumeError, match=r"labels.nii.gz \(found\) and the image .*case.nii.gz \(expected\)"):
        build_view(save(tmp_path / "case.nii.gz", image), [path])
