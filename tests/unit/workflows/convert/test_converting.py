"""Every layout, from a tiny tree with the names of the real files to a dataset that is checked and divided."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from builders import public_datasets
from builders.dicom_series import PATIENT, write_series
from builders.public_datasets import TREES, build_tree, draw_square, save_picture

from autoseg.dataset import read_dataset
from autoseg.dataset.layouts import LAYOUTS
from autoseg.errors import DatasetError, OptionError, RunError
from autoseg.files.temporary_files import name_temporary
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import read_image, read_label_map
from autoseg.workflows.convert.converting import ConversionReport, convert_dataset
from autoseg.workflows.plan.checking import CheckRequest, check_dataset
from autoseg.workflows.plan.splitting import SplitRequest, divide_into_folds

TRAINING = {
    "synapse": ["img0001", "img0002", "img0021"],
    "nih-pancreas": ["PANCREAS_0001", "PANCREAS_0002"],
    "covid19-ct": ["coronacases_001", "radiopaedia_10_85902_0"],
    "acdc": [f"patient00{patient}_frame{frame}" for patient in (1, 2) for frame in ("01", "12")],
    "isles2018": ["TRAINING_case_1", "TRAINING_case_2"],
    "sts-3d": ["1", "2"],
    "kvasir": sorted(public_datasets.KVASIR_NAMES),
    "cvc-clinicdb": ["1", "2", "26"],
    "cvc-colondb": ["1", "2"],
    "isic2018": ["ISIC_0000000", "ISIC_0000001"],
    "busi": ["benign_1", "malignant_1", "normal_1"],
    "drive": ["21", "22"],
    "refuge2": ["g0001", "n0001"],
    "carvana": [f"{car}_{view}" for car in ("00087a6bd4dc", "02159e548029") for view in ("01", "02")],
    "glas": ["train_1", "train_2", "train_3"],
    "monuseg": ["TCGA-18-5592-01Z-00-DX1", "TCGA-38-6178-01Z-00-DX1"],
    "dsb2018": list(public_datasets.HASHES[:2]),
    "isbi2012": [f"train_{index:02d}" for index in range(14)],
    "phc-u373": [f"seq{sequence}_t{frame}" for sequence in ("01", "02") for frame in ("000", "001")],
    "coco": ["000000000009", "000000000025"],
}
TEST = {
    "synapse": (["img0061"], []),
    "acdc": (["patient101_frame01", "patient101_frame12"],) * 2,
    "isles2018": (["TESTING_case_1"], []),
    "isic2018": (["ISIC_0012169"],) * 2,
    "drive": (["01"], []),
    "refuge2": (["T0001", "V0001"],) * 2,
    "glas": (["testA_1", "testB_1"],) * 2,
    "monuseg": (["TCGA-2Z-A9J9-01A-01-TS1"],) * 2,
    "dsb2018": ([public_datasets.HASHES[3]], []),
    "isbi2012": (["test_0", "test_1"], []),
    "coco": (["000000000010", "000000000026"],) * 2,
}
"""Test cases, and those of them that have labels."""
GROUPS = {
    "acdc": [["patient001_frame01", "patient001_frame12"], ["patient002_frame01", "patient002_frame12"]],
    "cvc-clinicdb": [["1", "2"], ["26"]],
    "carvana": [["00087a6bd4dc_01", "00087a6bd4dc_02"], ["02159e548029_01", "02159e548029_02"]],
    "glas": [["train_1", "train_2"], ["train_3"]],
    "isbi2012": [[f"train_{index:02d}" for index in block] for block in (range(6), range(6, 12), range(12, 14))],
    "phc-u373": [["seq01_t000", "seq01_t001"], ["seq02_t000", "seq02_t001"]],
}
SQUARES = {
    "kvasir": (public_datasets.KVASIR_NAMES[0], draw_square(3, value=1)),
    "cvc-clinicdb": ("26", draw_square(2, value=1)),
    "cvc-colondb": ("1", draw_square(2, value=1)),
    "isic2018": ("ISIC_0000001", draw_square(4, value=1)),
    "busi": ("benign_1", draw_square(1, value=1) + draw_square(7, value=1)),
    "drive": ("21", draw_square(5, value=1)),
    "refuge2": ("g0001", draw_square(2, value=1, extent=8) + draw_square(4, value=1, extent=4)),
    "carvana": ("00087a6bd4dc_01", draw_square(3, value=1)),
    "glas": ("train_1", draw_square(1, value=1) + draw_square(6, value=1)),
    "dsb2018": (public_datasets.HASHES[0], draw_square(1, value=1) + draw_square(6, value=1)),
    "isbi2012": ("train_06", draw_square(2, value=1)),
    "phc-u373": ("seq01_t000", draw_square(1, value=1) + draw_square(6, value=1)),
}
"""A case of each layout of pictures, with its label map."""


def convert(source: Path, out: Path, layout: str = "auto", *, overwrite: bool = False) -> ConversionReport:
    return convert_dataset(source, out, layout=layout, overwrite=overwrite, workers=1, progress=SilentProgress())


def list_cases(folder: Path) -> list[str]:
    """Names of the images of a folder, without channels and endings."""
    return sorted({path.name.partition(".")[0][:-5] for path in folder.glob("*")})


def read_labels(out: Path, name: str, folder: str = "labelsTr") -> np.ndarray:
    (path,) = (out / folder).glob(f"{name}.*")
    return read_label_map(path).array


def test_every_layout_has_a_tree() -> None:
    assert set(LAYOUTS) == set(TREES) == set(TRAINING)
    assert len(LAYOUTS) > 15


@pytest.mark.parametrize("name", TREES)
def test_a_dataset_is_recognized_converted_checked_and_divided(name: str, tmp_path: Path) -> None:
    source, out = build_tree(name, tmp_path / "source"), tmp_path / "out"

    report = convert(source, out)

    assert report.layout_name == name
    dataset = read_dataset(out)
    assert [case.name for case in dataset.cases] == TRAINING[name]
    request = CheckRequest(split=SplitRequest(), workers=1)
    assert check_dataset(out, request, progress=SilentProgress()).problems == ()
    images, labels = TEST.get(name, ([], []))
    assert list_cases(out / "imagesTs") == images
    assert sorted(path.name.partition(".")[0] for path in (out / "labelsTs").glob("*")) == labels
    groups = json.loads((out / "groups.json").read_text()) if (out / "groups.json").exists() else {}
    found = [[case for case in groups if groups[case] == group] for group in dict.fromkeys(groups.values())]
    assert found == GROUPS.get(name, [])
    for fold in divide_into_folds(dataset, SplitRequest()).splits.folds:
        assert all(set(group) <= set(fold.validation) or not set(group) & set(fold.validation) for group in found)
    if name in SQUARES:
        case, expected = SQUARES[name]
        assert np.array_equal(read_labels(out, case)[0], expected)


def test_several_label_folders_are_merged_the_later_over_the_earlier(tmp_path: Path) -> None:
    convert(build_tree("covid19-ct", tmp_path / "source"), tmp_path / "out")
    labels = read_labels(tmp_path / "out", "coronacases_001")
    lungs = read_label_map(tmp_path / "source" / "lung_mask" / "coronacases_001.nii").array
    infection = read_label_map(tmp_path / "source" / "infection_mask" / "coronacases_001.nii").array
    assert np.array_equal(labels, np.where(infection > 0, 3, lungs))
    assert set(np.unique(labels)) == {0, 1, 3}


def test_a_label_map_with_axes_of_its_own_is_brought_to_those_of_the_image(tmp_path: Path) -> None:
    report = convert(build_tree("nih-pancreas", tmp_path / "source"), tmp_path / "out")
    source = tmp_path / "source" / "TCIA_pancreas_labels-02-05-2017" / "label0001.nii.gz"
    assert np.array_equal(read_labels(tmp_path / "out", "PANCREAS_0001"), read_label_map(source).array[:, ::-1, ::-1])
    assert any(note.startswith("warning: by their headers 2 label maps lie beside") for note in report.list_notes())


def build_pancreas_series(root: Path) -> np.ndarray:
    """Two patients as their archive is downloaded; returns the voxels (z, y, x) of the first."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, public_datasets.VOLUME[::-1])
    for number in (1, 2):
        folder = root / "Pancreas-CT" / f"PANCREAS_{number:04d}" / "11-24-2015-NA-Pancreas" / "Pancreas-63502"
        write_series(folder, voxels if number == 1 else -voxels, number=number)
        labels = root / "TCIA_pancreas_labels-02-05-2017" / f"label{number:04d}.nii.gz"
        public_datasets.save_boxes(labels, 1, affine=np.eye(4))
    return voxels


def test_the_slices_of_a_dicom_series_become_one_file_without_the_patient(tmp_path: Path) -> None:
    voxels, out = build_pancreas_series(tmp_path / "source"), tmp_path / "out"

    report = convert(tmp_path / "source", out)

    assert report.layout_name == "nih-pancreas"
    assert [case.name for case in read_dataset(out).cases] == TRAINING["nih-pancreas"]
    assert check_dataset(out, CheckRequest(split=SplitRequest(), workers=1), progress=SilentProgress()).problems == ()
    image = read_image([out / "imagesTr" / "PANCREAS_0001_0000.nii.gz"])
    assert np.array_equal(image.array[0], voxels)
    assert image.grid.spacing_mm == pytest.approx((5, 0.8, 0.7))
    source = read_label_map(tmp_path / "source" / "TCIA_pancreas_labels-02-05-2017" / "label0001.nii.gz").array
    assert np.array_equal(read_labels(out, "PANCREAS_0001"), source[:, ::-1, ::-1])  # R, A of the file to L, P
    for path in (path for path in out.rglob("*") if path.is_file()):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert PATIENT.split("^")[0].lower().encode() not in content.lower()


def test_a_folder_of_two_series_is_refused_with_both(tmp_path: Path) -> None:
    voxels = build_pancreas_series(tmp_path / "source")
    folder = tmp_path / "source" / "Pancreas-CT" / "PANCREAS_0002"
    write_series(folder / "scout", voxels, number=3, description="lung")
    with pytest.raises(DatasetError, match=r"case PANCREAS_0002: expected one series .*series 3 'lung'"):
        convert(tmp_path / "source", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "case"), [("glas", "train_1"), ("dsb2018", public_datasets.HASHES[0]), ("phc-u373", "seq01_t000")]
)
def test_objects_are_numbered_beside_their_label(name: str, case: str, tmp_path: Path) -> None:
    report = convert(build_tree(name, tmp_path / "source"), tmp_path / "out")
    objects = read_labels(tmp_path / "out", case, "instancesTr")[0]
    assert np.array_equal(objects, draw_square(1, value=1) + draw_square(6, value=2))
    assert any("objects are numbered in instancesTr" in note for note in report.list_notes())


def test_outlines_become_the_pixels_whose_centres_lie_inside(tmp_path: Path) -> None:
    convert(build_tree("monuseg", tmp_path / "source"), tmp_path / "out")
    expected = np.zeros(public_datasets.SIZE, np.uint8)
    expected[1:5, 2:6], expected[3:9, 10:14] = 1, 2
    assert np.array_equal(read_labels(tmp_path / "out", "TCGA-18-5592-01Z-00-DX1", "instancesTr")[0], expected)
    assert np.array_equal(read_labels(tmp_path / "out", "TCGA-2Z-A9J9-01A-01-TS1", "labelsTs")[0], expected > 0)


def test_grey_rims_of_jpeg_masks_are_announced(tmp_path: Path) -> None:
    source = build_tree("kvasir", tmp_path / "source")
    notes = convert(source, tmp_path / "out").list_notes()
    assert any("are neither black nor white; those above half of white became foreground" in note for note in notes)


def test_images_are_not_copied_where_a_second_name_suffices(tmp_path: Path) -> None:
    source = build_tree("kvasir", tmp_path / "source")
    convert(source, tmp_path / "out")
    name = public_datasets.KVASIR_NAMES[0]
    image = tmp_path / "out" / "imagesTr" / f"{name}_0000.jpg"
    assert image.samefile(source / "Kvasir-SEG" / "images" / f"{name}.jpg")


def test_where_the_file_system_has_no_second_names_images_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = build_tree("kvasir", tmp_path / "source")
    convert(source, tmp_path / "out")
    name = public_datasets.KVASIR_NAMES[0]
    image, original = (
        tmp_path / "out" / "imagesTr" / f"{name}_0000.jpg",
        source / "Kvasir-SEG" / "images" / f"{name}.jpg",
    )
    assert not image.samefile(original)
    assert image.read_bytes() == original.read_bytes()


def test_slices_of_a_stack_keep_their_values(tmp_path: Path) -> None:
    source = build_tree("isbi2012", tmp_path / "source")
    convert(source, tmp_path / "out")
    stack = read_image([source / "train-volume.tif"]).array[0]
    assert np.array_equal(read_image([tmp_path / "out" / "imagesTr" / "train_07_0000.png"]).array[0, 0], stack[7])


def test_a_wrong_tree_gives_the_expected_names_with_what_was_found(tmp_path: Path) -> None:
    source = build_tree("busi", tmp_path / "source")
    with pytest.raises(DatasetError) as caught:
        convert(source, tmp_path / "out", "kvasir")
    text = str(caught.value)
    assert "expected **/images/{case}.jpg (found 0), **/masks/{case}.jpg (found 0)" in text
    assert "found 3 x 'Dataset_BUSI_with_GT/benign/*.png', 2 x 'Dataset_BUSI_with_GT/malignant/*.png'" in text
    assert not (tmp_path / "out").exists()


def test_an_unknown_tree_gives_the_names_of_all_layouts(tmp_path: Path) -> None:
    save_picture(tmp_path / "source" / "a.png", draw_square(1))
    with pytest.raises(DatasetError) as caught:
        convert(tmp_path / "source", tmp_path / "out")
    assert "found 1 x '*.png'" in str(caught.value)
    assert f"known layouts: {', '.join(LAYOUTS)}; name the layout with --layout" in str(caught.value)


def test_common_names_are_recognized_only_if_the_path_names_the_dataset(tmp_path: Path) -> None:
    source = build_tree("cvc-colondb", tmp_path / "source") / "CVC-ColonDB"
    assert convert(source, tmp_path / "out").layout_name == "cvc-colondb"
    renamed = source.rename(tmp_path / "polyps")
    with pytest.raises(DatasetError, match="name it with --layout cvc-colondb"):
        convert(renamed, tmp_path / "other")
    assert convert(renamed, tmp_path / "other", "cvc-colondb").layout_name == "cvc-colondb"


def test_a_tree_that_two_layouts_fit_is_refused_with_both(tmp_path: Path) -> None:
    source = build_tree("glas", build_tree("kvasir", tmp_path / "source"))
    with pytest.raises(DatasetError, match="fit 2 layouts; name the right one") as caught:
        convert(source, tmp_path / "out")
    assert "kvasir: **/images/{case}.jpg (3), **/masks/{case}.jpg (3)" in str(caught.value)
    assert "glas: **/{case}.bmp (5), **/{case}_anno.bmp (5)" in str(caught.value)
    assert convert(source, tmp_path / "out", "glas").layout_name == "glas"


def test_a_wrong_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="there is no layout 'kvasr'; did you mean 'kvasir'"):
        convert(build_tree("kvasir", tmp_path / "source"), tmp_path / "out", "kvasr")


def test_the_other_variant_of_a_dataset_is_found(tmp_path: Path) -> None:
    source = build_tree("cvc-clinicdb", tmp_path / "source")
    (source / "TIF").rename(tmp_path / "CVC-ClinicDB")
    report = convert(tmp_path / "CVC-ClinicDB", tmp_path / "out")
    assert [case.name for case in read_dataset(tmp_path / "out").cases] == TRAINING["cvc-clinicdb"]
    assert "warning: no metadata.csv tells which cases belong together" in report.list_notes()


def test_colondb_is_also_found_as_other_datasets_hold_it(tmp_path: Path) -> None:
    for number in ("1", "2"):
        save_picture(tmp_path / "CVC-ColonDB" / "images" / f"{number}.png", public_datasets.draw(int(number)))
        save_picture(tmp_path / "CVC-ColonDB" / "masks" / f"{number}.png", draw_square(5))
    convert(tmp_path / "CVC-ColonDB", tmp_path / "out")
    assert np.array_equal(read_labels(tmp_path / "out", "2")[0], draw_square(5, value=1))


def test_folders_that_are_links_are_followed_and_pipes_are_not_opened(tmp_path: Path) -> None:
    source = build_tree("kvasir", tmp_path / "elsewhere") / "Kvasir-SEG"
    os.mkfifo(source / "images" / "cju0u2g7pmnux0801vkk47ivj.jpg")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "data").symlink_to(source)
    (source / "images" / "back").symlink_to(tmp_path / "source")
    assert len(convert(tmp_path / "source", tmp_path / "out").cases) == 3


def test_a_dataset_that_was_unpacked_twice_is_refused(tmp_path: Path) -> None:
    build_tree("kvasir", tmp_path / "source" / "first")
    source = build_tree("kvasir", tmp_path / "source" / "second").parent
    with pytest.raises(DatasetError, match="belong to the same case; name a folder that holds the dataset once"):
        convert(source, tmp_path / "out")


def test_images_without_mask_are_left_out_with_a_warning(tmp_path: Path) -> None:
    source = build_tree("kvasir", tmp_path / "source")
    (source / "Kvasir-SEG" / "masks" / f"{public_datasets.KVASIR_NAMES[0]}.jpg").unlink()
    report = convert(source, tmp_path / "out")
    assert len(read_dataset(tmp_path / "out").cases) == 2
    assert any(note.startswith("warning: images that lack files are left out (1): ") for note in report.list_notes())


def test_a_conversion_that_was_stopped_is_continued(tmp_path: Path) -> None:
    source, out = build_tree("kvasir", tmp_path / "source"), tmp_path / "out"
    broken = source / "Kvasir-SEG" / "masks" / f"{public_datasets.KVASIR_NAMES[2]}.jpg"
    good = broken.read_bytes()
    save_picture(broken, draw_square(1)[:, :8])
    with pytest.raises(DatasetError, match=r"1 of 3 cases .* cannot be converted") as caught:
        convert(source, out)
    assert "must have the size of its image, 1 x 12 x 16 (z, y, x), found 1 x 12 x 8" in str(caught.value)
    assert not (out / "dataset.json").exists()
    first = out / "labelsTr" / f"{public_datasets.KVASIR_NAMES[0]}.png"
    before = first.stat().st_mtime_ns
    broken.write_bytes(good)
    report = convert(source, out)
    assert first.stat().st_mtime_ns == before
    assert "2 of 3 cases were there already and are not counted below" in report.list_notes()
    assert len(read_dataset(out).cases) == 3


def test_what_a_killed_process_left_in_a_new_folder_hinders_nothing(tmp_path: Path) -> None:
    source, out = build_tree("kvasir", tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    name_temporary(out / "conversion.json").write_text("{")
    convert(source, out)
    assert len(read_dataset(out).cases) == 3


def test_a_damaged_image_is_named_and_the_others_are_converted(tmp_path: Path) -> None:
    source = build_tree("acdc", tmp_path / "source")
    (source / "database" / "training" / "patient001" / "patient001_frame01.nii.gz").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"1 of 6 cases .* cannot be converted") as caught:
        convert(source, tmp_path / "out")
    assert "case patient001_frame01: " in str(caught.value)
    assert (tmp_path / "out" / "labelsTr" / "patient002_frame01.nii.gz").is_file()


def test_a_finished_conversion_is_replaced_only_if_asked(tmp_path: Path) -> None:
    source, out = build_tree("acdc", tmp_path / "source"), tmp_path / "out"
    convert(source, out)
    with pytest.raises(RunError, match=r"dataset\.json exists already; .* --overwrite replaces it"):
        convert(source, out)
    other = build_tree("synapse", tmp_path / "other")
    convert(other, out, overwrite=True)
    assert [case.name for case in read_dataset(out).cases] == TRAINING["synapse"]
    assert not (out / "groups.json").exists()


def test_an_unfinished_conversion_of_another_dataset_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(build_tree("acdc", tmp_path / "source"), out)
    (out / "dataset.json").unlink()
    with pytest.raises(RunError, match="an unfinished conversion of another dataset"):
        convert(build_tree("synapse", tmp_path / "other"), out)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_no_conversion_wrote_is_left_alone(tmp_path: Path, *, overwrite: bool) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="holds files that no conversion wrote"):
        convert(build_tree("acdc", tmp_path / "source"), tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("place", ["source", "source/out", "."])
def test_the_output_lies_outside_of_the_source(tmp_path: Path, place: str) -> None:
    source = build_tree("acdc", tmp_path / "source")
    with pytest.raises(RunError, match="must lie outside of"):
        convert(source, tmp_path / place)


def test_unknown_label_values_are_refused_with_the_expected_ones(tmp_path: Path) -> None:
    source = build_tree("acdc", tmp_path / "source")
    path = source / "database" / "training" / "patient001" / "patient001_frame01_gt.nii.gz"
    public_datasets.save_boxes(path, 1, 2, 9)
    with pytest.raises(DatasetError, match="expected the label values 0, 1, 2, 3, found 9"):
        convert(source, tmp_path / "out")


def test_outlines_with_entities_are_refused(tmp_path: Path) -> None:
    source = build_tree("monuseg", tmp_path / "source")
    path = next(source.rglob("*.xml"))
    path.write_text(f'<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]>{path.read_text()}')
    with pytest.raises(DatasetError, match="document type definition"):
        convert(source, tmp_path / "out")


def test_a_table_of_groups_without_its_columns_is_refused(tmp_path: Path) -> None:
    source = build_tree("glas", tmp_path / "source")
    next(source.rglob("Grade.csv")).write_text("image,grade\ntrain_1,benign\n")
    with pytest.raises(DatasetError, match="expected the columns 'name' and 'patient ID', found"):
        convert(source, tmp_path / "out")


def test_a_stack_without_spacing_is_mentioned_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert(build_tree("isbi2012", tmp_path / "source"), tmp_path / "out")
    told = [record.getMessage() for record in caplog.records if "no spacing" in record.getMessage()]
    assert sorted(Path(text.split(": ")[0]).name for text in told) == [
        "test-volume.tif",
        "train-labels.tif",
        "train-volume.tif",
    ]
