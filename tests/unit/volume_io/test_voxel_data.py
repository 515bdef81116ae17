"""Unusual but good MetaImage and NRRD files hold the same voxels as by ITK, whoever decodes them."""

import gzip
import zlib

import numpy as np
import pytest
import SimpleITK
from builders.hostile_images.good_files import VOXELS
from builders.hostile_images.meta_image import save_meta
from builders.hostile_images.nrrd import save_nrrd

from autoseg.volume_io import convert_images, read_grid, read_image

RAW = VOXELS.tobytes()
SLICES = [VOXELS[index].tobytes() for index in range(4)]
TEXT = " ".join(str(value) for value in VOXELS.ravel()).encode()
COLOURS = np.stack([VOXELS, VOXELS + 1, VOXELS + 2], axis=-1)
DETACHED = {"kinds": "list domain domain domain", "dimension": "4", "sizes": "3 6 5 4"}
ALONG_FIRST = {"space_directions": "none (1,0,0) (0,1,0) (0,0,2)", **DETACHED}


def save_files(folder, contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("files", "tail", "fields"),
    [
        ({}, RAW, {}),
        ({}, VOXELS.astype(">i2").tobytes(), {"BinaryDataByteOrderMSB": "True"}),
        ({}, zlib.compress(RAW), {"CompressedData": "True", "CompressedDataSize": str(len(zlib.compress(RAW)))}),
        ({}, COLOURS.tobytes(), {"ElementNumberOfChannels": "3"}),
        ({}, RAW, {"ElementToIntensityFunctionSlope": "2", "ElementToIntensityFunctionOffset": "1"}),
        ({}, RAW, {"UnknownKey": "of a scanner", "Comment": "a = b: c"}),
        ({}, RAW + RAW, {"NDims": "4", "DimSize": "6 5 4 2", "ElementSpacing": "1 1 2 1", "Offset": "0 0 0 0",
                         "TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"}),
        ({"a.raw": RAW}, b"", {"ElementDataFile": "a.raw"}),
        ({"a.raw": b"header" + RAW}, b"", {"ElementDataFile": "a.raw", "HeaderSize": "6"}),
        ({"a.raw": b"header" + RAW}, b"", {"ElementDataFile": "a.raw", "HeaderSize": "-1"}),
        ({"a.zraw": zlib.compress(RAW)}, b"", {"ElementDataFile": "a.zraw", "CompressedData": "True"}),
        ({f"s{i}.raw": s for i, s in enumerate(SLICES)}, b"s0.raw\ns1.raw\ns2.raw\ns3.raw\n",
         {"ElementDataFile": "LIST"}),
        ({f"s{i:02d}.raw": s for i, s in enumerate(SLICES)}, b"", {"ElementDataFile": "s%02d.raw 0 3 1"}),
    ],
)  # fmt: skip
def test_meta_image(tmp_path, files, tail, fields):
    save_files(tmp_path, files)
    compare(save_meta(tmp_path, tail=tail, ending=".mhd", **fields))


@pytest.mark.parametrize(
    ("files", "tail", "fields"),
    [
        ({}, RAW, {}),
        ({}, VOXELS.astype(">i2").tobytes(), {"endian": "big"}),
        ({}, gzip.compress(RAW), {"encoding": "gzip"}),
        ({}, TEXT, {"encoding": "text"}),
        ({}, b"12345" + RAW, {"byte_skip": "5"}),
        ({}, b"12345" + RAW, {"byte_skip": "-1"}),
        ({}, b"1\n2\n" + RAW, {"line_skip": "2"}),
        ({}, RAW, {"space": "right-anterior-superior", "space_origin": "(1,2,3)"}),
        ({}, RAW, {"space": None, "space_directions": None, "space_origin": None, "spacings": "1 2 3"}),
        ({}, COLOURS.tobytes(), ALONG_FIRST),
        ({}, COLOURS.transpose(3, 0, 1, 2).tobytes(), {"dimension": "4", "sizes": "6 5 4 3", "kinds": "domain domain "
         "domain list", "space_directions": "(1,0,0) (0,1,0) (0,0,2) none"}),
        ({"a.raw": RAW}, b"", {"data_file": "a.raw"}),
        ({"a.raw.gz": gzip.compress(RAW)}, b"", {"data_file": "./a.raw.gz", "encoding": "gz"}),
        ({f"s{i:02d}.raw": s for i, s in enumerate(SLICES)}, b"", {"data_file": "s%02d.raw 0 3 1"}),
    ],
)  # fmt: skip
def test_nrrd(tmp_path, files, tail, fields):
    save_files(tmp_path, files)
    compare(save_nrrd(tmp_path, tail=tail, ending=".nhdr", **fields))


def compare(path):
    expected = convert_images([SimpleITK.ReadImage(str(path))], "SimpleITK")
    volume = read_image([path])
    assert volume.grid == expected.grid == read_grid(path)
    np.testing.assert_array_equal(volume.array, expected.array)
