"""Cases that are read once and kept in memory."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.class_locations import ClassLocations

READING_THREADS = 8


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """An array in the memory of a device; slicing copies to the CPU, slices of `tensor` stay on the device."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(str(self.tensor.dtype).removeprefix("torch."))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part: NDArray[Any] = self.tensor[key].cpu().numpy()
        return part


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSize:
    """Memory that the cases of a fold need.

    Attributes:
        arrays_bytes: Images, label maps and further maps, uncompressed.
        locations_bytes: Locations of the classes; always in RAM.
    """

    arrays_bytes: int
    locations_bytes: int


def measure_size(case_names: Sequence[str], open_case: Callable[[str], CachedCase]) -> DataSize:
    """Adds up the sizes of the cases, without reading their arrays; one case is open at a time."""
    arrays_bytes = locations_bytes = 0
    for name in case_names:
        case = open_case(name)
        arrays = (case.image, *case.maps)
        arrays_bytes += sum(int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize for array in arrays)
        locations_bytes += case.locations.coordinates.nbytes
    return DataSize(arrays_bytes=arrays_bytes, locations_bytes=locations_bytes)


def hold_cases(case_names: Sequence[str], open_case: Callable[[str], CachedCase]) -> Mapping[str, CachedCase]:
    """Reads all cases into RAM, as numpy arrays.

    Raises:
        RunError: A case is missing or damaged.
    """
    with ThreadPoolExecutor(READING_THREADS) as pool:
        held = list(pool.map(lambda name: _hold_case(open_case(name)), case_names))
    return dict(zip(case_names, held, strict=True))


def hold_locations(case: CachedCase) -> ClassLocations:
    """Reads the locations of the classes of a case into RAM."""
    return replace(case.locations, coordinates=np.array(case.locations.coordinates))


def _hold_case(case: CachedCase) -> CachedCase:
    return replace(
        case,
        image=np.ascontiguousarray(case.image[:]),
        label_map=np.ascontiguousarray(case.label_map[:]),
        further_maps=tuple(np.ascontiguousarray(part[:]) for part in case.further_maps),
        locations=hold_locations(case),
    )
