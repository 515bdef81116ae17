"""Whatever a program gives to be segmented, it gets what `autoseg predict` writes, as the same kind of object."""

import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan
from PIL import Image

import autoseg
from autoseg.errors import AutosegError, GridError, PredictionError, VolumeError
from autoseg.geometry import Grid, compute_reorientation
from autoseg.plan import ChannelPlan

SHAPE = (9, 12, 11)  # z, y, x
SPACING_MM = (2.5, 1.25, 0.75)
UPRIGHT = Grid(shape_voxels=SHAPE, spacing_mm=SPACING_MM, origin_mm=(-7.5, 30.25, 4.0))
TILTED = (  # columns x, y, z of a rotation by angles that no code names
    np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    @ np.array([[1.0, 0.0, 0.0], [0.0, 0.96, -0.28], [0.0, 0.28, 0.96]])
)
CODES = ("RAS", "LPS", "LAS", "AIL", "PSR")


def name_channels(count: int) -> tuple[ChannelPlan, ...]:
    return tuple(
        ChannelPlan(name=f"MR{index}", normalization="zscore", inside_nonzero_only=False, window=None)
        for index in range(count)
    )


@pytest.fixture
def make_run(tmp_path):
    """A run with random weights, and the model that it holds."""

    def make(*, channels=1, ending=".nii.gz", orientation="LPS", patch=(8, 8, 8)):
        name = "2d" if len(patch) == 2 else "3d_fullres"
        configuration = build_configuration(patch, data_of=name, network={"input_channels": channels})
        described = {"orientation": orientation, "channels": name_channels(channels), "file_ending": ending}
        run = tmp_path / "run"
        write_trained_fold(run, build_plan({name: configuration}, **described), name, fold="0")
        return run, autoseg.load_model(run, device="cpu")

    return make


def make_array(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(300, 40, shape).astype(np.float32)


def make_affine(code: str) -> tuple[np.ndarray, np.ndarray]:
    """An array (z, y, x) that lies as the code says, and its affine; both show the same body."""
    turn = compute_reorientation("RAS", code)
    return np.ascontiguousarray(turn.apply(make_array())), turn.apply_to_grid(UPRIGHT).affine


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.T, affine)
    image.header["descrip"] = b"from a scanner"
    nib.save(image, path)
    return path


def predict_file(run: Path, image: Path, out: Path) -> Path:
    """What `autoseg predict` writes."""
    autoseg.predict_images(run, image, out)
    (written,) = [path for path in out.iterdir() if path.suffix != ".json"]
    return written


def check_nifti(found: nib.Nifti1Image, expected: nib.Nifti1Image) -> None:
    assert type(found) is type(expected)
    values = np.asarray(expected.dataobj)
    assert len(np.unique(values)) > 1
    assert found.get_data_dtype() == expected.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(found.dataobj), values)
    np.testing.assert_array_equal(found.affine, expected.affine)
    assert nib.Nifti1Image.from_bytes(found.to_bytes()).header == expected.header


def check_itk(found: SimpleITK.Image, image: SimpleITK.Image, expected: np.ndarray) -> None:
    assert found.GetPixelID() == SimpleITK.sitkUInt8
    assert found.GetSize() == image.GetSize()
    assert found.GetOrigin() == image.GetOrigin()
    assert found.GetSpacing() == image.GetSpacing()
    assert found.GetDirection() == image.GetDirection()
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), expected)


@pytest.mark.parametrize("code", [*CODES, "oblique"])
def test_a_nifti_image_gets_the_label_map_that_the_command_writes(make_run, tmp_path, code):
    run, model = make_run()
    array, affine = make_affine("RAS" if code == "oblique" else code)
    if code == "oblique":
        affine[:3, :3] = TILTED * SPACING_MM[::-1]
    path = save_nifti(tmp_path / "images" / "case_0000.nii.gz", array, affine)
    expected = nib.load(predict_file(run, path, tmp_path / "out"))

    check_nifti(autoseg.predict_volume(model, path), expected)
    check_nifti(autoseg.predict_volume(model, str(path)), expected)
    check_nifti(autoseg.predict_volume(model, nib.load(path)), expected)
    check_nifti(autoseg.predict_volume(model, [nib.load(path)]), expected)
    image = SimpleITK.ReadImage(str(path))
    check_itk(autoseg.predict_volume(model, image), image, np.asarray(expected.dataobj).T)
    own = "".join(nib.aff2axcodes(affine))
    spacing_mm = nib.affines.voxel_sizes(affine)[::-1]
    label_map = autoseg.predict_volume(model, array, spacing_mm=spacing_mm, orientation=own)
    assert label_map.dtype == np.uint8
    np.testing.assert_array_equal(label_map, np.asarray(expected.dataobj).T)


def test_however_it_is_stored_the_same_body_gets_the_same_labels(make_run):
    _, model = make_run()
    array, affine = make_affine("RAS")
    expected = np.asarray(autoseg.predict_volume(model, nib.Nifti1Image(array.T, affine)).dataobj).T
    for code in CODES:
        array, affine = make_affine(code)
        back = compute_reorientation(code, "RAS")
        found = np.asarray(autoseg.predict_volume(model, nib.Nifti1Image(array.T, affine)).dataobj).T
        np.testing.assert_array_equal(back.apply(found), expected, err_msg=code)


def test_a_scaled_integer_image_in_metres_with_two_forms_keeps_its_header(make_run, tmp_path):
    run, model = make_run()
    array, affine = make_affine("LPS")
    image = nib.Nifti1Image(np.rint(array.T).astype(np.int16), None)
    scaled = affine.copy()
    scaled[:3] /= 1000
    image.set_sform(scaled, code=2)
    image.set_qform(scaled, code=1)
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "case.nii.gz")
    expected = nib.load(predict_file(run, tmp_path / "case.nii.gz", tmp_path / "out"))
    assert (int(expected.header["sform_code"]), int(expected.header["qform_code"])) == (2, 1)
    check_nifti(autoseg.predict_volume(model, nib.load(tmp_path / "case.nii.gz")), expected)
    check_nifti(autoseg.predict_volume(model, tmp_path / "case.nii.gz"), expected)


@pytest.mark.parametrize("kind", [nib.Nifti2Image, nib.Nifti1Pair, nib.MGHImage])
def test_other_kinds_of_nibabel_stay_what_they_are(make_run, kind):
    _, model = make_run()
    array, affine = make_affine("LPS")
    expected = np.asarray(autoseg.predict_volume(model, nib.Nifti1Image(array.T, affine)).dataobj)
    found = autoseg.predict_volume(model, kind(array.T, affine.astype(np.float32)))
    assert type(found) is kind
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_array_equal(found.affine, affine.astype(np.float32))


def test_what_nibabel_only_reads_becomes_nifti(make_run):
    _, model = make_run()
    array, affine = make_affine("LPS")
    expected = np.asarray(autoseg.predict_volume(model, nib.Nifti1Image(array.T, affine)).dataobj)
    found = autoseg.predict_volume(model, nib.spatialimages.SpatialImage(array.T, affine))
    assert type(found) is nib.Nifti1Image
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_itks_files_get_images_of_simpleitk(make_run, tmp_path, ending):
    run, model = make_run(ending=ending)
    image = SimpleITK.GetImageFromArray(make_array())
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin((1.5, -2.25, 3.125))
    image.SetDirection((TILTED @ np.diag([-1.0, 1.0, -1.0])).ravel().tolist())
    path = tmp_path / f"case{ending}"
    SimpleITK.WriteImage(image, str(path))
    written = SimpleITK.ReadImage(str(predict_file(run, path, tmp_path / "out")))
    expected = SimpleITK.GetArrayFromImage(written)
    assert len(np.unique(expected)) > 1
    check_itk(autoseg.predict_volume(model, image), image, expected)
    check_itk(autoseg.predict_volume(model, path), written, expected)


def test_two_dimensional_images_stay_two_dimensional(make_run, tmp_path):
    run, model = make_run(patch=(8, 8), ending=".nii.gz")
    array = make_array(shape=(12, 11))
    path = save_nifti(tmp_path / "slice.nii.gz", array, np.diag([-0.75, -1.25, 1, 1]))
    expected = nib.load(predict_file(run, path, tmp_path / "out"))
    assert expected.shape == (11, 12)
    check_nifti(autoseg.predict_volume(model, nib.load(path)), expected)
    check_nifti(autoseg.predict_volume(model, path), expected)
    image = SimpleITK.ReadImage(str(path))
    assert image.GetDimension() == 2
    check_itk(autoseg.predict_volume(model, image), image, np.asarray(expected.dataobj).T)


def test_a_picture_gets_an_array_of_its_rows_and_columns(make_run, tmp_path):
    run, model = make_run(patch=(8, 8), ending=".png", orientation=None, channels=3)
    colours = np.random.default_rng(0).integers(0, 255, (12, 11, 3), dtype=np.uint8)
    path = tmp_path / "retina.png"
    Image.fromarray(colours).save(path)
    expected = np.asarray(Image.open(predict_file(run, path, tmp_path / "out")))
    assert len(np.unique(expected)) > 1
    found = autoseg.predict_volume(model, path)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    volume = np.moveaxis(colours, -1, 0)[:, None]
    np.testing.assert_array_equal(autoseg.predict_volume(model, volume, spacing_mm=(999, 1, 1))[0], expected)


def test_channels_are_given_as_a_list_of_any_one_kind(make_run, tmp_path):
    run, model = make_run(channels=2)
    _, affine = make_affine("LPS")
    arrays = [make_array(seed) for seed in (1, 2)]
    paths = [
        save_nifti(tmp_path / "images" / f"case_{index:04d}.nii.gz", array, affine)
        for index, array in enumerate(arrays)
    ]
    expected = nib.load(predict_file(run, paths[0], tmp_path / "out"))
    check_nifti(autoseg.predict_volume(model, paths), expected)
    check_nifti(autoseg.predict_volume(model, paths[0]), expected)  # the other one lies beside it
    check_nifti(autoseg.predict_volume(model, tuple(nib.load(path) for path in paths)), expected)
    images = [SimpleITK.ReadImage(str(path)) for path in paths]
    values = np.asarray(expected.dataobj).T
    check_itk(autoseg.predict_volume(model, images), images[0], values)
    check_itk(autoseg.predict_volume(model, SimpleITK.Compose(images)), images[0], values)
    check_itk(autoseg.predict_volume(model, SimpleITK.JoinSeries(images)), images[0], values)
    stacked = nib.Nifti1Image(np.stack(arrays).T, affine)
    np.testing.assert_array_equal(np.asarray(autoseg.predict_volume(model, stacked).dataobj).T, values)
    for given in (arrays, np.stack(arrays)):
        found = autoseg.predict_volume(model, given, spacing_mm=SPACING_MM, orientation="LPS")
        np.testing.assert_array_equal(found, values)


def test_the_order_of_the_channels_matters(make_run):
    _, model = make_run(channels=2)
    arrays = [make_array(seed) for seed in (1, 2)]
    found = autoseg.predict_volume(model, arrays, SPACING_MM, orientation="LPS")
    assert (found != autoseg.predict_volume(model, arrays[::-1], SPACING_MM, orientation="LPS")).any()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(SHAPE), r"found torch's Tensor: give tensor.cpu\(\).numpy\(\) and its spacing_mm"),
        (Image.new("L", (4, 4)), "found PIL's Image: give np.asarray"),
        (nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), None), "found nibabel's Nifti1Image: give an image that has"),
        (nib.Nifti1Header(), "found nibabel's Nifti1Header"),
        (SimpleITK.Euler3DTransform(), "found SimpleITK's Euler3DTransform: give the image itself"),
        (7, "expected a path, an image of nibabel or SimpleITK, an array .* found int"),
        (None, "found NoneType"),
        ([], "found an empty list"),
        ([[1.0, 2.0]], "found list: convert it with np.asarray"),
        ([np.zeros(SHAPE), "a.nii.gz"], "found a list of array and path, which cannot be mixed"),
        ("nowhere.nii.gz", r"there is no nowhere\.nii\.gz in /"),
        (Path("/nowhere/a.nii.gz"), r"there is no /nowhere/a\.nii\.gz; correct"),
        ([np.zeros(SHAPE), np.zeros((1, *SHAPE))], "one array .* of the same shape for each channel, found"),
    ],
)
def test_what_is_nothing_of_the_kind_is_refused_in_words(make_run, image, words):
    _, model = make_run()
    with pytest.raises(PredictionError, match=words):
        autoseg.predict_volume(model, image)


@pytest.mark.filterwarnings("ignore::autoseg.OrientationWarning")
def test_masked_voxels_are_refused_as_what_is_below_the_mask_means_nothing(make_run):
    _, model = make_run()
    array = make_array()
    masked = np.ma.MaskedArray(array, mask=array > 400)
    number = rf"found {(array > 400).sum()} masked voxels .* array.filled\(0\)"
    for given, spacing_mm in (
        (masked, SPACING_MM),
        ([masked], SPACING_MM),
        (nib.Nifti1Image(masked.T, np.eye(4)), None),
    ):
        with pytest.raises(PredictionError, match=number):
            autoseg.predict_volume(model, given, spacing_mm)
    found = autoseg.predict_volume(model, np.ma.MaskedArray(array), SPACING_MM)  # nothing is masked
    assert np.array_equal(found, autoseg.predict_volume(model, array, SPACING_MM))


def test_a_folder_is_refused_with_what_to_do_about_series_and_folders_of_images(make_run, tmp_path):
    _, model = make_run()
    with pytest.raises(PredictionError, match=r"is a folder; autoseg.predict_images segments .*ImageSeriesReader"):
        autoseg.predict_volume(model, tmp_path)


def test_a_file_that_is_no_image_is_refused(make_run, tmp_path):
    _, model = make_run()
    (tmp_path / "notes.txt").write_text("?")
    (tmp_path / "broken.nii.gz").write_text("?")
    with pytest.raises(AutosegError, match=r"ending of .*notes.txt cannot be read"):
        autoseg.predict_volume(model, tmp_path / "notes.txt")
    with pytest.raises(VolumeError, match=r"broken.nii.gz cannot be read"):
        autoseg.predict_volume(model, tmp_path / "broken.nii.gz")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((12, 11), r"found float64 of \(12, 11\); give the whole volume"),
        ((9, 12, 11, 3), r"whose last axis looks like channels; give np.moveaxis\(array, -1, 0\)$"),
        ((3, 9, 12, 11), r"takes 1 channel \(MR0\), found 3"),
        ((0, 12, 11), r"at least one voxel along every axis, found float64 of \(0, 12, 11\); give an image"),
    ],
)
def test_arrays_of_another_shape_are_refused_by_a_model_of_volumes(make_run, shape, words):
    _, model = make_run()
    with pytest.raises(PredictionError, match=words):
        autoseg.predict_volume(model, np.zeros(shape), SPACING_MM, orientation="LPS")


@pytest.mark.parametrize(
    ("channels", "shape", "words"),
    [
        (1, (12, 11), r"a picture is a volume of one slice: give array\[None\]"),
        (1, (12, 11, 3), r"of 1 channel, found float64 of \(12, 11, 3\), whose last axis looks like channels"),
        (3, (12, 11, 3), r"of 3 channels, .* give np.moveaxis\(array, -1, 0\)\[:, None\], which adds z"),
        (3, (1, 12, 11, 3), r"give np.moveaxis\(array, -1, 0\)$"),
    ],
)
def test_arrays_of_another_shape_are_refused_by_a_model_of_pictures(make_run, channels, shape, words):
    _, model = make_run(patch=(8, 8), ending=".png", orientation=None, channels=channels)
    with pytest.raises(PredictionError, match=words):
        autoseg.predict_volume(model, np.zeros(shape), (999, 1, 1))


@pytest.mark.parametrize("trained", ["LPS", None])  # None: a model of nnU-Net, which leaves images as they are stored
def test_a_narrow_volume_is_no_picture(make_run, trained):
    _, model = make_run(orientation=trained)
    found = autoseg.predict_volume(model, make_array(shape=(9, 12, 3)), SPACING_MM, orientation="LPS")
    assert found.shape == (9, 12, 3)


def test_folds_may_be_numbers_or_a_single_name(make_run):
    run, _ = make_run()
    for folds in ([0], range(1), "0", ("0", 0), 0):
        assert autoseg.load_model(run, device="cpu", folds=folds).folds == ("0",)
    with pytest.raises(PredictionError, match=r"found fold all: no checkpoint; trained are: 0"):
        autoseg.load_model(run, device="cpu", folds="all")


def test_a_slice_is_refused_by_a_model_of_volumes(make_run):
    _, model = make_run()
    image = nib.Nifti1Image(make_array(shape=(11, 12)), np.eye(4))
    with pytest.raises(PredictionError, match=r"3d_fullres was trained on volumes, found a 2D image of \(12, 11\)"):
        autoseg.predict_volume(model, image)
    with pytest.raises(PredictionError, match="found a 2D image"):
        autoseg.predict_volume(model, SimpleITK.GetImageFromArray(make_array(shape=(11, 12))))


def test_an_array_needs_its_spacing_and_an_image_has_its_own(make_run, tmp_path):
    _, model = make_run()
    array, affine = make_affine("LPS")
    with pytest.raises(PredictionError, match=r"give spacing_mm=\(z, y, x\) in millimetres, or give the path"):
        autoseg.predict_volume(model, array, orientation="LPS")
    with pytest.raises(PredictionError, match="found them beside the nibabel image, which has its own; leave them out"):
        autoseg.predict_volume(model, nib.Nifti1Image(array.T, affine), SPACING_MM)
    path = save_nifti(tmp_path / "a.nii.gz", array, affine)
    with pytest.raises(PredictionError, match="beside the file"):
        autoseg.predict_volume(model, path, orientation="LPS")


@pytest.mark.parametrize("spacing_mm", [[2, 2, 1], np.array([2.0, 2.0, 1.0]), (np.float32(2), 2, 1.0)])
def test_a_spacing_may_be_any_three_numbers(make_run, spacing_mm):
    _, model = make_run()
    expected = autoseg.predict_volume(model, make_array(), (2.0, 2.0, 1.0), orientation="LPS")
    found = autoseg.predict_volume(model, make_array(), spacing_mm, orientation="LPS")
    np.testing.assert_array_equal(found, expected)


def test_channels_on_different_grids_are_refused(make_run):
    _, model = make_run(channels=2)
    array, affine = make_affine("LPS")
    moved = affine.copy()
    moved[0, 3] += 1
    with pytest.raises(
        GridError, match=r"nibabel image 1 \(found\) and nibabel image 0 \(expected\): the grids differ"
    ):
        autoseg.predict_volume(model, [nib.Nifti1Image(array.T, affine), nib.Nifti1Image(array.T, moved)])


def test_values_that_are_no_numbers_are_refused(make_run):
    _, model = make_run()
    image = SimpleITK.Image([4, 4, 4], SimpleITK.sitkComplexFloat32)
    with pytest.raises(VolumeError, match="the SimpleITK image: voxels must be numbers, found complex64"):
        autoseg.predict_volume(model, image)


def test_the_orientation_is_spoken_of_only_where_it_is_assumed(make_run):
    _, model = make_run()
    with pytest.warns(autoseg.OrientationWarning, match=r"LPS \(x to the left, y to the back, z to the head\)"):
        autoseg.predict_volume(model, make_array(), SPACING_MM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        autoseg.predict_volume(model, make_array(), SPACING_MM, orientation="RAS")


def test_pictures_have_no_orientation_to_speak_of(make_run):
    _, model = make_run(patch=(8, 8), ending=".png", orientation=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        autoseg.predict_volume(model, make_array(shape=(1, 12, 11)), (999, 1, 1))


def test_a_program_is_told_once_at_its_own_line_and_gets_no_image_library(make_run, tmp_path):
    run, _ = make_run()
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nimport numpy as np\nimport autoseg\n"
        f"model = autoseg.load_model({str(run)!r}, device='cpu')\n"
        "for _ in range(3):\n"
        "    autoseg.predict_volume(model, np.ones((8, 8, 8)), (1, 1, 1))\n"
        "print(*[name for name in ('nibabel', 'SimpleITK') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert done.stderr.count("OrientationWarning: the array is taken to lie like the training images, LPS") == 1
    assert f"{script}:6:" in done.stderr
