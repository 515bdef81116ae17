"""The tested versions, and combinations of versions that are known to go wrong, each with its source."""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

TESTED: Final[Mapping[str, str]] = {
    "batchgenerators": "0.25.5",
    "blosc2": "4.14.1",
    "connected-components-3d": "4.1.1",
    "edt": "3.1.2",
    "fsspec": "2026.9.0",
    "isal": "1.9.1",
    "jaxtyping": "0.3.11",
    "jinja2": "3.1.6",
    "matplotlib": "3.11.2",
    "nibabel": "5.4.2",
    "numpy": "2.4.6",
    "packaging": "26.3",
    "pillow": "13.0.0",
    "psutil": "7.2.2",
    "pydantic": "2.14.3",
    "rich": "15.0.0",
    "safetensors": "0.8.0",
    "scikit-image": "0.26.0",
    "scipy": "1.17.1",
    "SimpleITK": "2.5.7",
    "tensorboard": "2.21.0",
    "threadpoolctl": "3.8.0",
    "tifffile": "2026.3.3",
    "torch": "2.13.0",
    "typer": "0.29.2",
}
"""Versions of the required libraries in constraints.txt, which is not installed; a test holds both equal."""


class KnownProblem(NamedTuple):
    """A combination of versions that goes wrong.

    Attributes:
        versions: Ranges by names of packages ("a|b" for either), all of which must match; "python" is Python itself.
        state: "will fail" where results are wrong or a command ends with an error.
        platform: Beginning of `sys.platform` if only that is affected.
    """

    versions: Mapping[str, str]
    state: Literal["warning", "will fail"]
    meaning: str
    remedy: str
    source: str
    platform: str = ""


CUDNN: Final = "nvidia-cudnn-cu12|nvidia-cudnn-cu13"

KNOWN_PROBLEMS: Final = (
    KnownProblem(
        versions={"torch": ">=2.9,<2.10", CUDNN: "<9.15"},
        state="warning",
        meaning="3D convolutions in bfloat16 and float16 on a GPU are about 4 times as slow and take several times the "
        "memory, as PyTorch 2.9 bypasses this cuDNN",
        remedy='pip install "torch>=2.10"',
        source="https://github.com/pytorch/pytorch/issues/166122, https://github.com/pytorch/pytorch/issues/166643",
    ),
    KnownProblem(
        versions={"torch": "<2.10", CUDNN: ">=9.8,<9.13"},
        state="warning",
        meaning="3D convolutions in bfloat16 with large outputs have given wrong results with this cuDNN",
        remedy='pip install "torch>=2.10"; compare scores with --precision float32',
        source="https://github.com/pytorch/pytorch/issues/163539",
    ),
    KnownProblem(
        versions={"torch": "<2.10", "python": ">=3.14"},
        state="warning",
        meaning="torch.compile does not work with this Python: predictions on a CPU run uncompiled",
        remedy='pip install "torch>=2.10", or take an older Python',
        source="https://github.com/pytorch/pytorch/pull/169401",
    ),
    KnownProblem(
        versions={"tensorboard": "<2.21", "setuptools": ">=82"},
        state="warning",
        meaning="the program `tensorboard` ends with \"No module named 'pkg_resources'\"; training is not affected",
        remedy='pip install "tensorboard>=2.21"',
        source="https://github.com/tensorflow/tensorboard/issues/7107",
    ),
    KnownProblem(
        versions={"torch": "<2.3", "numpy": ">=2"},
        state="will fail",
        meaning="this PyTorch was built for NumPy 1: arrays cannot be handed over",
        remedy='pip install "torch>=2.10"',
        source="https://github.com/pytorch/pytorch/issues/135013",
    ),
    KnownProblem(
        versions={"blosc2": ">=3.9", "numpy": "<2"},
        state="will fail",
        meaning='blosc2 cannot be imported: "module numpy has no attribute isdtype"',
        remedy='pip install "numpy>=2"',
        source="https://github.com/Blosc/python-blosc2/issues/485",
    ),
    KnownProblem(
        versions={"simpleitk": "==2.1.*"},
        state="will fail",
        meaning='ITK refuses many NIfTI files: "only supports orthonormal direction cosines"',
        remedy='pip install "SimpleITK>=2.4"',
        source="https://github.com/SimpleITK/SimpleITK/issues/1433",
    ),
)
"""Known problems, one row each."""
