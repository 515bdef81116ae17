"""Grey values of which the lowest is shown white (MONOCHROME1), as X-rays may have."""

import numpy as np
import pytest
from builders.dicom_series import convert_with_itk, write_series

from autoseg.errors import VolumeError
from autoseg.volume_io import read_grid, read_image
from autoseg.volume_io.dicom import find_series, read_stack, stack_slices

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install 'autoseg[dicom]')")
STORED = np.random.default_rng(3).integers(0, 4096, size=(3, 4, 6))
INTERCEPT = -1024


def write(folder, *, modality, photometric, is_signed=False, bits=16):
    """Slices with the same numbers for each photometric interpretation."""
    write_series(folder, STORED)
    for path in folder.iterdir():
        document = pydicom.dcmread(path)
        values = STORED[document.InstanceNumber - 1] - (2048 if is_signed else 0)
        document.Modality, document.PhotometricInterpretation = modality, photometric
        document.PixelRepresentation, document.BitsStored, document.HighBit = int(is_signed), bits, bits - 1
        document.RescaleSlope, document.RescaleIntercept = 1, INTERCEPT
        document.PixelData = (values & (2**bits - 1)).astype(np.uint16).tobytes()
        document.save_as(path)
    return folder


def read(folder):
    (series,) = find_series(folder).series
    return read_stack(stack_slices(series)).array[0]


@pytest.mark.parametrize("bits", [12, 16])
def test_an_x_ray_has_the_values_of_the_nifti_file_that_itk_makes_of_it(tmp_path, bits):
    folder = write(tmp_path / "s", modality="DX", photometric="MONOCHROME1", bits=bits)
    expected = read_image([convert_with_itk(folder, tmp_path / "s.nii.gz")]).array[0]
    np.testing.assert_array_equal(read(folder), expected)
    np.testing.assert_array_equal(expected, 2**bits - 1 - STORED + INTERCEPT)
    assert find_series(folder).notes == (
        "grey values are inverted, so that bright is high, as SimpleITK does and dcm2niix does not (MONOCHROME1): "
        "series 1 'thorax' (DX, 3 slices)",
    )


@pytest.mark.parametrize(("is_signed", "bits"), [(False, 12), (False, 16), (True, 16)])
@pytest.mark.parametrize("modality", ["CT", "DX"])
def test_other_grey_values_are_those_of_the_modality_lut(tmp_path, modality, is_signed, bits):
    folder = write(tmp_path / "s", modality=modality, photometric="MONOCHROME2", is_signed=is_signed, bits=bits)
    np.testing.assert_array_equal(read(folder), STORED + INTERCEPT - (2048 if is_signed else 0))
    assert find_series(folder).notes == ()


@pytest.mark.parametrize(
    ("modality", "is_signed", "bits", "found"),
    [
        ("CT", False, 12, "values of modality CT, which have a unit"),
        ("PT", False, 16, "values of modality PT, which have a unit"),
        ("CT", True, 16, "numbers with a sign"),
        ("DX", True, 16, "numbers with a sign"),
        ("DX", True, 12, "numbers with a sign"),
    ],
)
def test_values_that_would_be_wrong_if_inverted_are_refused(tmp_path, *, modality, is_signed, bits, found):
    folder = write(tmp_path / "s", modality=modality, photometric="MONOCHROME1", is_signed=is_signed, bits=bits)
    expected = f"found PhotometricInterpretation MONOCHROME1 for {found}: ITK would invert them, other programs would"
    with pytest.raises(
        VolumeError, match=rf"^instance \d: {expected} not; write MONOCHROME2 into the headers of copies"
    ):
        read(folder)
    path = min(folder.iterdir())
    for read_file in (read_grid, lambda file: read_image([file])):
        with pytest.raises(VolumeError, match=f"{path.name}: {expected}"):
            read_file(path)
