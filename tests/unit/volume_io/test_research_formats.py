"""MINC, PAR/REC, AFNI and ECAT: no library writes them all, so the samples that nibabel ships are read."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.brikhead import AFNIImage
from nibabel.ecat import EcatImage

from autoseg.errors import VolumeError
from autoseg.volume_io import check_same_grid, read_grid, read_image, read_label_map, write_label_map

# nibabel leaves closing PAR/REC and ECAT files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

SAMPLES = Path(nib.__file__).parent / "tests" / "data"
SCANNER_FILES = [
    "phantom_EPI_asc_CLEAR_2_1.PAR",
    "phantom_varscale.REC",
    "example4d+orig.HEAD",
    "example4d+orig.BRIK.gz",
    "scaled+tlrc.BRIK",
    "tinypet.v",
]


def get_sample(name: str) -> Path:
    if not (SAMPLES / name).is_file():
        pytest.skip("this nibabel is installed without its test data")
    return SAMPLES / name


def load(path: Path):
    name = path.name.lower()
    if name.endswith(".v"):
        return EcatImage.from_filename(path)
    return (
        AFNIImage.from_filename(path)
        if ".brik" in name
        else nib.load(path.with_suffix(".PAR" if ".rec" in name else path.suffix))
    )


@pytest.mark.parametrize("name", SCANNER_FILES)
def test_voxels_and_affine_are_those_of_nibabel(name, caplog):
    path = get_sample(name)
    expected = load(path)
    volume = read_image([path])
    voxels = np.asarray(expected.dataobj).T.astype(np.float32)
    np.testing.assert_array_equal(volume.array, voxels)
    assert volume.array.flags.c_contiguous
    np.testing.assert_allclose(volume.grid.affine, expected.affine, atol=1e-9)
    assert read_grid(path) == volume.grid
    assert not caplog.text


@pytest.mark.parametrize("name", [*SCANNER_FILES, "tiny.mnc", "small.mnc"])
def test_label_maps_are_written_onto_the_grid_as_nifti(tmp_path, name):
    source = get_sample(name)
    grid = read_grid(source)
    labels = np.random.default_rng(0).integers(0, 9, grid.shape_voxels).astype(np.uint8)
    write_label_map(tmp_path / "a.nii.gz", labels, grid=grid, like=source)
    written = read_label_map(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(written.array, labels)
    check_same_grid(grid, written.grid, what="label map")
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii.gz").affine, grid.affine, atol=2e-5)


@pytest.mark.parametrize("name", ["tiny.mnc", "minc1_1_scale.mnc", "minc1-no-att.mnc", "minc1_4d.mnc"])
def test_minc_1_is_read_as_nibabel_reads_it_with_axes_in_the_order_z_y_x(name):
    path = get_sample(name)
    expected = nib.load(path)
    volume = read_image([path])
    voxels = np.asarray(expected.dataobj)  # (time), z, y, x: nibabel keeps the order of the file
    np.testing.assert_array_equal(volume.array, voxels.reshape(-1, *voxels.shape[-3:]).astype(np.float32))
    np.testing.assert_allclose(volume.grid.affine, expected.affine[:, [2, 1, 0, 3]])
    assert read_grid(path) == volume.grid


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("minc1_1_scale.mnc", "minc2_1_scale.mnc"),
        ("minc1-no-att.mnc", "minc2-no-att.mnc"),
        ("minc1_4d.mnc", "minc2_4d.mnc"),
    ],
)
def test_both_versions_of_minc_tell_the_same_image(first, second):
    old, new = (read_image([get_sample(name)]) for name in (first, second))
    np.testing.assert_allclose(new.array, old.array, atol=1e-6)
    check_same_grid(old.grid, new.grid, what="the same image in two versions")
    assert new.grid.orientation_code == "RAS"
    assert read_grid(get_sample(second)) == new.grid


def test_oblique_minc_2_lies_where_its_cosines_say(tmp_path):
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    image = SimpleITK.GetImageFromArray(np.arange(24).reshape(2, 3, 4).astype(np.int16))
    image.SetSpacing((0.5, 0.7, 2.0))
    image.SetOrigin((11.0, -7.0, 3.0))
    image.SetDirection(turn.ravel().tolist())
    SimpleITK.WriteImage(image, str(tmp_path / "a.MNC"))
    volume = read_image([tmp_path / "a.MNC"])
    np.testing.assert_array_equal(volume.array[0], np.arange(24).reshape(2, 3, 4))
    np.testing.assert_allclose(volume.grid.affine[:3, :3], turn * (0.5, 0.7, 2.0), atol=1e-9)
    np.testing.assert_allclose(volume.grid.origin_mm, (11.0, -7.0, 3.0), atol=1e-9)


@pytest.mark.parametrize(
    "name",
    ["bad_datatype+orig.HEAD", "bad_attribute+orig.HEAD", "phantom_truncated.PAR", "DTI.PAR", "minc2_baddim.mnc"],
)
def test_a_bad_file_is_an_error_without_further_words(capfd, name):
    with pytest.raises(VolumeError, match="cannot be read"):
        read_image([get_sample(name)])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["tiny.mnc", "small.mnc", "tinypet.v", "scaled+tlrc.BRIK", "phantom_EPI_asc_CLEAR_2_1.REC"]
)
def test_a_cut_file_is_an_error_without_further_words(tmp_path, capfd, name):
    source = get_sample(name)
    for beside in source.parent.glob(f"{source.stem}.*"):
        shutil.copy(beside, tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(VolumeError, match="cannot be read"):
        read_image([path])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", [".mnc", ".par", ".head", ".v"])
def test_junk_is_an_error_without_further_words(tmp_path, capfd, ending):
    (tmp_path / f"a{ending}").write_bytes(b"junk" * 500)
    with pytest.raises(VolumeError, match=rf"a\{ending}"):
        read_image([tmp_path / f"a{ending}"])
    assert capfd.readouterr().err == ""
