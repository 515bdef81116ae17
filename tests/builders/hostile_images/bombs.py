"""Files that promise or hold far more than their size tells."""

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from builders.hostile_images.good_files import HostileFile, save_good
from builders.hostile_images.meta_image import save_meta
from builders.hostile_images.nifti import edit_nifti
from builders.hostile_images.nrrd import save_nrrd


def list_bombs() -> Iterator[HostileFile]:
    """Lists all."""

    def bomb_nifti(folder: Path) -> Path:
        header = nib.Nifti1Header()
        header.set_data_dtype(np.uint8)
        header.set_data_shape((1500, 1500, 1500))
        header.set_zooms((1, 1, 1))
        header["vox_offset"] = 352
        member = gzip.compress(bytes(2**24))
        (folder / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(4)) + member * 202)
        return folder / "a.nii.gz"

    def endless_tail(folder: Path) -> Path:
        path = save_good(folder, ".nii.gz")
        path.write_bytes(path.read_bytes() + gzip.compress(bytes(2**24)) * 300)
        return path

    def bomb_meta(folder: Path) -> Path:
        return save_meta(folder, tail=zlib.compress(bytes(2**26)), CompressedData="True", DimSize="6000 6000 6000")

    def bomb_nrrd(folder: Path) -> Path:
        return save_nrrd(folder, tail=gzip.compress(bytes(2**26)), encoding="gzip", sizes="6 5 4")

    def sparse(folder: Path) -> Path:
        path = edit_nifti(".nii", dim=[3, 32000, 32000, 1000, 1, 1, 1, 1])(folder)
        os.truncate(path, 352 + 2 * 32000 * 32000 * 1000)
        return path

    def pages(folder: Path) -> Path:
        page = struct.pack("<H", 0)
        content = b"II*\0" + struct.pack("<I", 8)
        content += b"".join(page + struct.pack("<I", 8 + 6 * (number + 1)) for number in range(70_000))
        (folder / "a.tif").write_bytes(content + page + bytes(4))
        return folder / "a.tif"

    def page_ring(folder: Path) -> Path:
        (folder / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + struct.pack("<HI", 0, 8))
        return folder / "a.tif"

    def large_picture(folder: Path) -> Path:
        header = struct.pack(">IIBBBBB", 2**30, 2**30, 8, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        data = zlib.compress(bytes(1000))
        chunk += struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
        (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
        return folder / "a.png"

    yield HostileFile(name="gz that expands to 3.4 GB", build=bomb_nifti, outcome="times as many")
    yield HostileFile(name="gz of 5 GB after its voxels", build=endless_tail, outcome="bytes behind them")
    yield HostileFile(name="mha that would expand", build=bomb_meta, outcome="promises")
    yield HostileFile(name="nrrd that expands", build=bomb_nrrd, outcome="bytes follow")
    yield HostileFile(name="sparse file of 2 TB", build=sparse, outcome="GiB of memory")
    yield HostileFile(name="tiff of 70000 pages", build=pages, outcome="65536 pages")
    yield HostileFile(name="tiff whose page follows itself", build=page_ring, outcome="65536 pages")
    yield HostileFile(name="png of 10^18 pixels", build=large_picture, outcome="promises")
