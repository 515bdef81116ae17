import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.errors import ExchangeError
from autoseg.networks.safe_unpickling import Placeholder, read_checkpoint_safely


class Trap:
    """Its pickle calls a function as soon as it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("function", [os.system, subprocess.check_output, eval, os.mkdir])
def test_a_file_that_would_run_code_is_refused_by_name_and_nothing_runs(
    function: Callable[..., Any], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    argument: Any = {
        os.system: f"touch {marker}",
        eval: f"__import__('os').mkdir({str(marker)!r})",
        os.mkdir: str(marker),
    }.get(function, ["touch", str(marker)])
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {"a": torch.ones(2)}, "logging": Trap(function, argument)}, path)
    with pytest.raises(ExchangeError, match=rf"is refused.*{function.__name__}.*nothing was run"):
        read_checkpoint_safely(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the trap is real: a full reader falls into it
    assert marker.exists()


def test_a_trap_that_is_reached_through_a_harmless_name_is_refused(tmp_path: Path) -> None:
    inner = Trap(os.system, f"touch {tmp_path / 'marker'}")
    torch.save({"logging": Trap(np.dtype, inner)}, tmp_path / "x.pth")
    with pytest.raises(ExchangeError, match="is refused"):
        read_checkpoint_safely(tmp_path / "x.pth")
    assert not (tmp_path / "marker").exists()


def test_tensors_containers_and_numbers_are_read_and_numpys_numbers_become_placeholders(tmp_path: Path) -> None:
    content = {
        "weights": {"a": torch.arange(6.0).reshape(2, 3)},
        "logging": [np.float32(0.5), np.float64(0.25), np.arange(3)],
        "axes": (0, 1),
        "device": torch.device("cpu"),
        "nothing": None,
    }
    torch.save(content, tmp_path / "x.pth")
    found = read_checkpoint_safely(tmp_path / "x.pth")
    assert isinstance(found, dict)
    assert torch.equal(found["weights"]["a"], content["weights"]["a"])  # type: ignore[index]
    assert [type(value) for value in found["logging"]] == [Placeholder] * 3
    assert (found["axes"], found["nothing"]) == ((0, 1), None)


def test_the_allow_list_is_gone_after_reading(tmp_path: Path) -> None:
    torch.save({"best": np.float64(0.5)}, tmp_path / "x.pth")
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint_safely(tmp_path / "x.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(UnpicklingError):
        torch.load(tmp_path / "x.pth", weights_only=True)


@pytest.mark.parametrize(("content", "problem"), [
    (b"", "it is empty"),
    (b"not a checkpoint", "not in the zip form .* not opened and nothing was run"),
    (b"\x80\x04\x95garbage.", "not in the zip form"),
    (b"PK\x03\x04rest", "cut short"),
])  # fmt: skip
def test_a_damaged_file_is_an_error_with_its_name_and_what_is_wrong(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(content)
    with pytest.raises(ExchangeError, match=rf"checkpoint_final\.pth cannot be read .*{problem}") as caught:
        read_checkpoint_safely(path)
    assert "weights_only" not in str(caught.value)


def test_the_older_forms_of_checkpoints_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ExchangeError, match="not in the zip form"):
        read_checkpoint_safely(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ExchangeError, match="not in the zip form"):
        read_checkpoint_safely(path)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ExchangeError, match="cut short"):
        read_checkpoint_safely(path)


def test_a_single_wrong_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.full((1000,), 1.5)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((10,), 1.5).numpy().tobytes()) + 400] ^= 1
    path.write_bytes(content)
    with pytest.raises(ExchangeError, match=r"its part x/data/0 is damaged"):
        read_checkpoint_safely(path)


def test_a_zip_without_a_pickle_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/other", "text")
    with pytest.raises(ExchangeError, match="cannot be read"):
        read_checkpoint_safely(tmp_path / "x.pth")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="no checkpoint at"):
        read_checkpoint_safely(tmp_path / "x.pth")
