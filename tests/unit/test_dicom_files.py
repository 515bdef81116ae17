from pathlib import Path

import pytest

from autoseg.dataset import find_images, read_dataset
from autoseg.dicom_files import explain_dicom, is_dicom
from autoseg.errors import AutosegError
from autoseg.volume_io import read_image
from autoseg.workflows.evaluate.evaluation import pair_label_maps

DICOM = b"\0" * 128 + b"DICM" + b"the rest"


def write(root: Path, name: str, content: bytes = DICOM) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [("IM0001", DICOM, True), ("1.2.840.113", DICOM, True), ("x.IMA", DICOM, True), ("x.dcm", b"", True),
     ("x.DCM", DICOM, True), ("IM0001", b"DICM", False), ("notes.txt", b"x" * 500, False), ("x.nii.gz", DICOM, False)],
)  # fmt: skip
def test_dicom_is_known_by_its_ending_or_by_its_content(tmp_path, name, content, expected):
    assert is_dicom(write(tmp_path, name, content)) == expected


LAYOUTS = ["slice1.dcm", "IM0001", "patient1/study/series/IM0001", "patient1/slice1.DCM"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_dicom_is_found_in_folders_and_their_subfolders(tmp_path, name):
    write(tmp_path, "a/notes.txt", b"text")
    write(tmp_path, name)
    assert explain_dicom(tmp_path).startswith(f"; {tmp_path.name} holds DICOM ({name}): ")
    assert "dcm2niix" in explain_dicom(tmp_path)


def test_nothing_is_said_of_folders_without_dicom(tmp_path):
    write(tmp_path, "scan.nii.gz", b"x")
    write(tmp_path, "inner/IM0001", b"no dicom")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert explain_dicom(tmp_path) == ""
    assert explain_dicom(tmp_path / "nowhere") == ""


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "use",
    [
        lambda folder: find_images(folder, channel_count=1, file_ending=".nii.gz"),
        lambda folder: pair_label_maps(make_label_maps(folder.parent), folder),
        lambda folder: read_dataset(folder),
    ],
    ids=["predict", "evaluate", "check and plan"],
)
def test_every_command_that_takes_images_says_what_to_do_with_dicom(tmp_path, use, name):
    write(tmp_path / "images", name)
    with pytest.raises(AutosegError, match=r"holds DICOM \(.*convert a series of DICOM slices with dcm2niix"):
        use(tmp_path / "images")


def make_label_maps(folder: Path) -> Path:
    return write(folder, "predictions/a.nii.gz", b"x").parent


def test_predictions_in_dicom_and_single_files_are_told_too(tmp_path):
    write(tmp_path, "predictions/series/IM0001")
    with pytest.raises(AutosegError, match=r"no label maps in .*holds DICOM"):
        pair_label_maps(tmp_path / "predictions", tmp_path)
    single = write(tmp_path, "IM0001")
    with pytest.raises(AutosegError, match="IM0001 is DICOM"):
        find_images(single, channel_count=1, file_ending=".nii.gz")
    with pytest.raises(AutosegError, match="IM0001 is DICOM"):
        read_image([single])


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_dataset_with_dicom_in_its_folders_is_told(tmp_path, part):
    description = '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}'
    write(tmp_path, "dataset.json", description.encode())
    for other in {"imagesTr", "labelsTr"} - {part}:
        write(tmp_path, f"{other}/a.nii.gz", b"x")
    write(tmp_path, f"{part}/a/IM0001")
    with pytest.raises(AutosegError, match=rf"{part} .*holds DICOM \(a/IM0001\)"):
        read_dataset(tmp_path)
