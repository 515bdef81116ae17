"""Readers of headers get whatever hypothesis finds: they answer with an image or a named error, never otherwise."""

from contextlib import suppress

import nibabel as nib
import numpy as np
import pytest
from builders.hostile_images.good_files import save_good
from builders.hostile_images.meta_image import META, save_meta
from builders.hostile_images.nrrd import NRRD, save_nrrd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.errors import VolumeError
from autoseg.volume_io import read_grid, read_image

few = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WORDS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(width=64).map(repr),
    st.sampled_from(["", "True", "LOCAL", "LIST", "(1,0,0)", "none", "nan", "%d", "../a", "/dev/zero", "raw", "6 5 4"]),
    st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40),
)
VALUES = st.lists(WORDS, max_size=5).map(" ".join)


def check(path):
    with suppress(VolumeError):
        assert read_image([path]).grid == read_grid(path)


@few
@given(fields=st.dictionaries(st.sampled_from(sorted(META)), st.none() | VALUES, min_size=1, max_size=3))
def test_any_header_of_meta_image(tmp_path, fields):
    check(save_meta(tmp_path, **fields))


@few
@given(
    fields=st.dictionaries(
        st.sampled_from([*sorted(NRRD), "spacings", "data file", "byte skip", "line skip", "labels", "units"]),
        st.none() | VALUES,
        min_size=1,
        max_size=3,
    )
)
def test_any_header_of_nrrd(tmp_path, fields):
    check(save_nrrd(tmp_path, **fields))


@few
@given(
    fields=st.dictionaries(
        st.sampled_from([name for name in nib.Nifti1Header().keys() if name != "sizeof_hdr"]),  # noqa: SIM118 (no dict)
        st.binary(min_size=80, max_size=80),
        min_size=1,
        max_size=3,
    )
)
def test_any_header_of_nifti(tmp_path, fields):
    path = save_good(tmp_path, ".nii")
    header = nib.Nifti1Header(path.read_bytes()[:348], check=False)
    for name, content in fields.items():
        field = header[name]
        header[name] = np.frombuffer(content[: field.nbytes], field.dtype).reshape(field.shape)
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])
    check(path)


@pytest.mark.parametrize("ending", [".mgh", ".gipl", ".mrc", ".png", ".bmp", ".tif"])
@settings(few, max_examples=15)
@given(patches=st.lists(st.tuples(st.integers(0, 120), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))
def test_any_bytes_in_the_header_of_other_formats(tmp_path, ending, patches):
    path = save_good(tmp_path, ending)
    content = bytearray(path.read_bytes())
    for offset, piece in patches:
        content[offset : offset + len(piece)] = piece
    path.write_bytes(content)
    check(path)
