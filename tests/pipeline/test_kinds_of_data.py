"""Whole runs on data other than plain volumes of NIfTI: regions with an ignore label, pictures in colour, VTK."""

import gzip
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
from builders.balls import AFFINE, make_case, save
from builders.command_line import run_autoseg
from builders.datasets import describe_dataset, write_dataset
from builders.dicom_series import BIRTH_DATE, PATIENT, convert_with_itk, write_series
from builders.plans import shorten
from PIL import Image

from autoseg.volume_io import read_grid, write_label_map


def run_everything(dataset: Path, run: Path, configuration: str, *, images: Path, out: Path) -> None:
    for arguments in (
        ("plan", dataset, "--run", run, "--configuration", configuration, "--workers", 1),
        ("train", run, "--configuration", configuration, "--fold", "0", "--device", "cpu", "--workers", 0),
        ("predict", run, images, out, "--no-mirroring"),
    ):
        if arguments[0] == "train":
            shorten(run, configuration, epochs=2, iterations=25)
        done = run_autoseg(*arguments)
        assert done.code == 0, done.err


def test_regions_and_an_ignore_label(tmp_path: Path) -> None:
    dataset = tmp_path / "Dataset005_Regions"
    cases = {f"case{index}": make_case(index) for index in range(5)}
    for _, label_map in cases.values():
        label_map[0] = 7
    labels = {"both": [2, 5], "dark": [5], "ignore": 7}
    write_dataset(dataset, cases.items(), labels=labels, affine=AFFINE, regions_class_order=[2, 5], numTraining=5)
    save(tmp_path / "new.nii.gz", make_case(60)[0])
    run_everything(dataset, tmp_path / "run", "3d_fullres", images=tmp_path / "new.nii.gz", out=tmp_path / "out")
    label_map = np.asarray(nib.load(tmp_path / "out" / "new.nii.gz").dataobj)
    assert set(np.unique(label_map)) <= {0, 2, 5}
    validation = tmp_path / "run" / "models" / "3d_fullres" / "fold_0" / "validation" / "summary.json"
    assert set(json.loads(validation.read_text())["mean"]) == {"(2, 5)", "5"}


def test_pictures_in_colour_with_the_values_0_and_255(tmp_path: Path) -> None:
    dataset = tmp_path / "Dataset006_Pictures"
    random = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder).mkdir(parents=True)
    for index in range(5):
        mask = np.zeros((40, 36), bool)
        mask[10 + index : 28 + index, 8:25] = True
        noise = random.integers(0, 60, (40, 36, 3))
        picture = noise + mask[..., None] * np.array([150, 0, 90])
        Image.fromarray(picture.astype(np.uint8)).save(dataset / "imagesTr" / f"p{index}_0000.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(dataset / "labelsTr" / f"p{index}.png")
    describe_dataset(
        dataset,
        channel_names={"0": "R", "1": "G", "2": "B"},
        labels={"background": 0, "square": 255},
        numTraining=5,
        file_ending=".png",
    )
    run_everything(dataset, tmp_path / "run", "2d", images=dataset / "imagesTr", out=tmp_path / "out")
    predicted = np.asarray(Image.open(tmp_path / "out" / "p0.png"))
    reference = np.asarray(Image.open(dataset / "labelsTr" / "p0.png"))
    assert predicted.dtype == np.uint8
    assert predicted.shape == reference.shape
    assert set(np.unique(predicted)) <= {0, 255}
    assert (predicted == reference).mean() > 0.8
    planned = run_autoseg("plan", dataset, "--run", tmp_path / "run", "--configuration", "2d", "--workers", 1)
    evaluated = run_autoseg("evaluate", tmp_path / "out", dataset / "labelsTr", "--run", tmp_path / "run")
    assert (planned.code, evaluated.code) == (0, 0), planned.err + evaluated.err
    assert "spacing (pixels)" in planned.out
    assert "HD95 (pixels)" in evaluated.out
    for text in (planned.out, evaluated.out):
        assert not re.search(r"\bmm\b|\b999\b", text), text


def place(array: np.ndarray) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(array.T)
    image.SetSpacing((1.25, 0.9, 2.0))
    image.SetOrigin((7.5, -20.25, 1 / 3))
    return image


def test_volumes_of_vtk_are_predicted_onto_their_own_grid(tmp_path: Path) -> None:
    dataset = tmp_path / "Dataset007_Vtk"
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder).mkdir(parents=True)
    for index in range(5):
        for folder, name, array in zip(("imagesTr", "labelsTr"), ("_0000", ""), make_case(index), strict=True):
            SimpleITK.WriteImage(place(array), str(dataset / folder / f"case{index}{name}.vtk"))
    labels = {"background": 0, "bright": 2, "dark": 5}
    describe_dataset(dataset, channel_names={"0": "MR"}, labels=labels, numTraining=5, file_ending="VTK")
    SimpleITK.WriteImage(place(make_case(60)[0]), str(tmp_path / "new.vtk"))
    run_everything(dataset, tmp_path / "run", "3d_fullres", images=tmp_path / "new.vtk", out=tmp_path / "out")
    image, label_map = (SimpleITK.ReadImage(str(path)) for path in (tmp_path / "new.vtk", tmp_path / "out" / "new.vtk"))
    assert label_map.GetSize() == image.GetSize()
    assert label_map.GetSpacing() == image.GetSpacing() == (1.25, 0.9, 2.0)
    assert label_map.GetOrigin() == image.GetOrigin() == (7.5, -20.25, 1 / 3)
    assert set(np.unique(SimpleITK.GetArrayFromImage(label_map))) <= {0, 2, 5}


def find_secrets(root: Path, *secrets: str) -> list[str]:
    """Names the files below a folder whose paths or contents hold one of the texts, packed ones unpacked."""
    found = []
    for path in (path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        content = (gzip.decompress(content) if path.suffix == ".gz" else content).lower()
        texts = [str(path.relative_to(root)).lower().encode(), content]
        found += [str(path) for secret in secrets if any(secret.lower().encode() in text for text in texts)]
    return found


def test_nothing_that_a_run_of_dicom_writes_tells_the_patient(tmp_path: Path) -> None:
    """Plans, trains, validates and reports on folders of slices, and searches all files and what is printed."""
    dataset, run, random = tmp_path / "Dataset008_Slices", tmp_path / "run", np.random.default_rng(0)
    (dataset / "labelsTr").mkdir(parents=True)
    for number in (1, 2):
        mask = np.zeros((4, 16, 16), np.uint8)
        mask[1:3, 3 + number : 11, 4:12] = 1
        folder = dataset / "imagesTr" / f"case{number}_0000.dcm"
        write_series(folder, random.integers(-200, 200, mask.shape) + 500 * (mask > 0), number=number)
        series = convert_with_itk(folder, tmp_path / "converted.nii.gz")
        grid = read_grid(series)
        write_label_map(dataset / "labelsTr" / f"case{number}.nii.gz", mask, grid=grid, like=series)
    labels = {"background": 0, "square": 1}
    describe_dataset(dataset, channel_names={"0": "CT"}, labels=labels, numTraining=2, file_ending=".dcm")
    secrets = (PATIENT, PATIENT.split("^")[0], PATIENT.split("^")[1], BIRTH_DATE)
    assert find_secrets(dataset / "imagesTr", *secrets)
    for arguments in (
        ("plan", dataset, "--run", run, "--configuration", "2d", "--workers", 1),
        ("train", run, "--configuration", "2d", "--fold", "0", "--device", "cpu", "--workers", 0),
        ("report", run),
    ):
        if arguments[0] == "train":
            shorten(run, "2d", epochs=1, iterations=2)
        done = run_autoseg(*arguments)
        assert done.code == 0, done.err
        assert not [secret for secret in secrets if secret.lower() in (done.out + done.err).lower()]
    assert (run / "models" / "2d" / "fold_0" / "checkpoint_final.safetensors").is_file()
    assert find_secrets(run, *secrets) == []
