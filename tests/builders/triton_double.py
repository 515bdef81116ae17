"""Triton without Triton: kernels that compute nothing, and whose launches are recorded."""

import sys
from dataclasses import dataclass, field
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from autoseg import networks

KERNELS = "autoseg.networks.fused_normalization"


@dataclass(slots=True)
class Launches:
    """What was launched.

    Attributes:
        names: Names of the kernels, in order.
        devices: For each launch, what had been made the current device.
        failure: Raised by every launch; None: none fails.
        current: What is the current device now; None: nothing was made it.
    """

    names: list[str] = field(default_factory=list)
    devices: list[Any] = field(default_factory=list)
    failure: Exception | None = None
    current: Any = None


def install_triton(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Puts the double in the place of Triton until the test ends."""
    launches = Launches()

    class Kernel:
        def __init__(self, function: Any) -> None:
            self.name = function.__name__

        def __getitem__(self, grid: Any) -> Any:
            def launch(*arguments: Any, **blocks: Any) -> None:
                if launches.failure is not None:
                    raise launches.failure
                launches.names.append(self.name)
                launches.devices.append(launches.current)

            return launch

    triton, language = ModuleType("triton"), ModuleType("triton.language")
    triton.__dict__.update(
        __spec__=ModuleSpec("triton", None),
        jit=Kernel,
        language=language,
        cdiv=lambda a, b: -(-a // b),
        next_power_of_2=lambda n: 1 << (n - 1).bit_length(),
    )
    language.__dict__["constexpr"] = int
    monkeypatch.setitem(sys.modules, "triton", triton)
    monkeypatch.setitem(sys.modules, "triton.language", language)
    monkeypatch.setitem(sys.modules, KERNELS, triton)  # forgotten when the test ends, as is the package's attribute
    monkeypatch.setattr(networks, "fused_normalization", None, raising=False)
    del sys.modules[KERNELS]
    import_module(KERNELS)
    return launches
