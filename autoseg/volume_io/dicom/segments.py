"""The content of a DICOM result, and what its formats share: segments, the algorithm, the images they were made of."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from autoseg.errors import AutosegError, PredictionError, VolumeError
from autoseg.remote.local_files import use_local
from autoseg.volume_io.dicom.stack import SliceStack

SOFTWARE: Final = "autoseg"
UNICODE: Final = "ISO_IR 192"
"""Character set of results: names of classes may have letters that the source's set lacks."""
PATIENT_AND_STUDY: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime"),
    *("ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
IDENTIFIERS: Final = ("StudyInstanceUID", "FrameOfReferenceUID")  # those of series and instance are checked on reading
GENERIC_UID: Final = "2.25.0"
SEXES: Final = ("", "M", "F", "O")
PATIENT_GROUP: Final = 0x0010
DECIMAL_TEXT: Final = ("DS", "IS")  # numbers that are stored as text
LARGEST_NUMBER: Final = 2**31 - 1  # of an integer string
SERIES_OFFSET: Final = 9000  # guess: scanners do not number that high

logger = logging.getLogger(__name__)


class Code(NamedTuple):
    """A term of a coding scheme: designator of the scheme, code, and the term in words."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A class of the label map.

    Attributes:
        values: Values of the label map that belong to it.
        category: Kind of thing, such as an anatomical structure.
        term: The thing itself, such as the liver.
    """

    name: str
    values: tuple[int, ...]
    category: Code
    term: Code

    def find_voxels(self, label_map: Integer[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """Returns where it is."""
        return np.isin(label_map, self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentedBy:
    """The algorithm, as results name it.

    Attributes:
        version: Version of autoseg.
        model: Name of the model.
        weights: Digest of its weights.
    """

    version: str
    model: str
    weights: str


def check_dicom_libraries(libraries: Sequence[str], *, what: str) -> None:
    """Checks that optional libraries are installed.

    Raises:
        PredictionError: One is missing.
    """
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        msg = f"{what} needs {' and '.join(missing)}, not installed here: pip install 'autoseg[dicom]'"
        raise PredictionError(msg)


@contextmanager
def translate_header_errors() -> Iterator[None]:
    """Translates the exceptions of libraries that repeat or refuse the headers of a source into a VolumeError.

    Their texts may hold a value, such as the date of birth, which is none of a log's business; those about elements
    that are missing hold names of elements alone. Warnings hold values, too, such as a name of one word, and are not
    shown or logged.
    """
    from pydicom.config import disable_value_validation

    try:
        with warnings.catch_warnings(), disable_value_validation():  # what it would log, `_drop_invalid` finds
            warnings.simplefilter("ignore")
            yield
    except (AutosegError, MemoryError):
        raise
    except Exception as error:
        what = (
            f" ({error})" if isinstance(error, AttributeError) else ", such as FrameOfReferenceUID or StudyInstanceUID"
        )
        msg = (
            f"the headers of the series do not have the form that DICOM demands: an element is missing or not valid"
            f"{what}; correct it and predict again, or predict without --format"
        )
        raise VolumeError(msg) from None


def read_sources(stack: SliceStack) -> list[Any]:
    """Reads the headers of all files of a series, along z, with pydicom.

    What results must repeat of patient and study is empty where the source lacks it, or has a value that DICOM does not
    allow; other values about the patient that it does not allow are left out. A warning names their elements.

    Raises:
        VolumeError: An identifier is not valid.
    """
    import pydicom
    from pydicom.uid import UID

    with use_local(*(header.path for header in stack.slices)):
        sources = [pydicom.dcmread(header.path, stop_before_pixels=True) for header in stack.slices]
    for source in sources:
        for keyword in PATIENT_AND_STUDY:
            if keyword not in source:
                setattr(source, keyword, "")
        if "NumberOfFrames" not in source and not source.get("SliceThickness"):
            source.SliceThickness = stack.grid.spacing_mm[0]
    for keyword in IDENTIFIERS:
        if not sources[0].get(keyword, UID(GENERIC_UID)).is_valid:
            msg = f"the {keyword} of the series is not valid: expected digits and dots; restore the header"
            raise VolumeError(msg)
    dropped = _drop_invalid(sources[0])
    if dropped:
        logger.warning(
            "series %s: the values of %s have not the form that DICOM demands, and are left out of its results",
            stack.slices[0].series,
            ", ".join(dropped),
        )
    return sources


def _drop_invalid(source: Any) -> list[str]:
    """Empties or removes invalid values about patient and study; returns the keywords of their elements."""
    from pydicom.datadict import keyword_for_tag

    dropped = []
    for tag in list(source.keys()):
        keyword = keyword_for_tag(tag)
        is_repeated = keyword in PATIENT_AND_STUDY and not keyword.endswith("UID")
        if (is_repeated or tag.group == PATIENT_GROUP) and not _is_valid(source, tag, keyword):
            dropped.append(keyword or str(tag))
            del source[tag]
            if is_repeated:
                setattr(source, keyword, "")
    return dropped


def _is_valid(source: Any, tag: Any, keyword: str) -> bool:
    from pydicom.config import RAISE
    from pydicom.multival import MultiValue
    from pydicom.valuerep import validate_value

    try:
        element = source[tag]
        if keyword in PATIENT_AND_STUDY and element.VM > 1:
            return False
        values = element.value if isinstance(element.value, MultiValue) else [element.value]
        for value in values if element.VR != "SQ" else []:
            validate_value(element.VR, str(value) if element.VR in DECIMAL_TEXT else value, RAISE)
    except (ValueError, TypeError, OverflowError):
        return False
    return keyword != "PatientSex" or element.value in SEXES


def choose_series_number(source: Any) -> int:
    """Returns a number for the series of the result, which tells that of its source."""
    number = int(source.get("SeriesNumber") or 0) + SERIES_OFFSET
    return number if 0 < number <= LARGEST_NUMBER else SERIES_OFFSET
