"""NIfTI with fields that contradict each other or the file, and with other ends."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from builders.hostile_images.good_files import ANYTHING, RIGHT, VOXELS, HostileFile, change_file, save_good


def edit_nifti(ending: str = ".nii", **fields: object) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        path = save_good(folder, ending)
        opened = gzip.open if ending.endswith(".gz") else open
        with opened(path, "rb") as stream:
            content = stream.read()
        header = nib.Nifti1Header(content[:348], check=False)
        for field, value in fields.items():
            name, _, index = field.partition("__")
            if index:
                header[name][int(index)] = value
            else:
                header[name] = value
        content = header.binaryblock + content[348:]
        path.write_bytes(gzip.compress(content) if ending.endswith(".gz") else content)
        return path

    return build


def list_nifti() -> Iterator[HostileFile]:
    """Lists all."""
    rows: list[tuple[dict[str, object], str]] = [
        ({"vox_offset": 0}, "vox_offset is 0"),
        ({"vox_offset": 100}, "vox_offset is 100"),
        ({"vox_offset": 1e9}, "promises"),
        ({"vox_offset": np.nan}, "vox_offset is nan"),
        ({"vox_offset": -352}, "vox_offset is -352"),
        ({"vox_offset": 352.5}, "vox_offset is 352.5"),
        ({"datatype": 16}, "promises"),
        ({"datatype": 2}, r"datatype 2 \(uint8\) has 8 bits, bitpix says 16"),
        ({"bitpix": 32}, RIGHT),
        ({"datatype": 0}, "data type"),
        ({"datatype": 9999}, "datatype 9999"),
        ({"datatype": 1}, "data type"),
        ({"dim__0": 0}, "dimensions"),
        ({"dim__0": 99}, "dimensions|NIfTI header"),
        ({"dim__0": -3}, "dimensions|NIfTI header"),
        ({"dim__1": 0}, "expected extents"),
        ({"dim__2": -5}, "expected extents"),
        ({"dim__1": 10000, "dim__2": 10000, "dim__3": 10000}, "promises 10000 x 10000 x 10000"),
        ({"dim": [7, 32767, 32767, 32767, 32767, 32767, 32767, 32767]}, "promises"),
        ({"pixdim__1": 0, "sform_code": 0, "qform_code": 0}, "no spacing"),
        ({"pixdim__3": np.nan, "sform_code": 0}, "no spacing"),
        ({"pixdim__3": np.inf, "sform_code": 0}, "no spacing"),
        ({"scl_slope": 1, "scl_inter": 1e38}, "scl_inter 1e[+]38"),
        ({"scl_slope": 1e38, "scl_inter": 0}, "scl_slope is 1e[+]38"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "scl_inter nan"),
        ({"scl_slope": np.nan, "scl_inter": 0}, RIGHT),
        ({"scl_slope": np.inf, "scl_inter": 0}, RIGHT),
        ({"scl_slope": 0, "scl_inter": 7}, RIGHT),
        ({"srow_x": [0, 0, 0, 0]}, "plane|columns|affine"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "finite|nan"),
        ({"srow_x": [1e38, 0, 0, 0], "srow_y": [0, 3e38, 0, 0]}, "expected a spacing"),
        ({"quatern_b": np.nan, "sform_code": 0, "qform_code": 1}, "cannot be read|finite"),
        ({"quatern_b": 9, "sform_code": 0, "qform_code": 1}, "cannot be read|quatern"),
        ({"sizeof_hdr": 0}, RIGHT),
        ({"magic": b"xxx"}, "header of Analyze"),
        ({"qform_code": -1, "sform_code": -1}, RIGHT),
        ({"xyzt_units": 255}, RIGHT),
    ]
    for fields, outcome in rows:
        for ending in (".nii", ".nii.gz"):
            name = f"{ending}: " + ", ".join(f"{field} = {value}" for field, value in fields.items())
            is_noticed = ending == ".nii" or outcome in (RIGHT, ANYTHING) or "promises" not in outcome
            expected = outcome if is_noticed else "promises|cannot be read"
            yield HostileFile(name=name, build=edit_nifti(ending, **fields), outcome=expected)
    yield HostileFile(name="huge numbers", build=_save_doubles(1e300), outcome=r"below 3\.4e\+38, .* 1e\+300")
    yield HostileFile(name="infinite numbers", build=_save_doubles(np.inf), outcome=ANYTHING)
    tails = {
        "text": b"trailing text",
        "zeros": bytes(512),
        "zeros and text": bytes(5) + b"x",
        "member": b"\x1f\x8b\x08",
    }
    for name, tail in tails.items():

        def append(content: bytes, tail: bytes = tail) -> bytes:
            return content + tail

        outcome = "cannot be read" if name == "member" else RIGHT
        yield HostileFile(name=f"gz with {name} after its end", build=change_file(".nii.gz", append), outcome=outcome)
    yield HostileFile(name="not compressed", build=change_file(".nii.gz", gzip.decompress), outcome=RIGHT)
    yield HostileFile(name="compressed .nii", build=change_file(".nii", gzip.compress), outcome=RIGHT)
    yield HostileFile(name="two members", build=change_file(".nii.gz", _split_members), outcome=RIGHT)
    yield HostileFile(
        name="no checksum", build=change_file(".nii.gz", lambda content: content[:-8]), outcome="cannot be read"
    )


def _split_members(content: bytes) -> bytes:
    plain = gzip.decompress(content)
    return gzip.compress(plain[:400]) + gzip.compress(plain[400:])


def _save_doubles(value: float) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        array = VOXELS.astype(np.float64)
        array[0, 0, 0] = value
        nib.Nifti1Image(array.T, np.eye(4)).to_filename(folder / "a.nii.gz")
        return folder / "a.nii.gz"

    return build
