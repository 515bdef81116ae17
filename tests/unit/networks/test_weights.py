import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autoseg.errors import RunError
from autoseg.networks import NETWORK_PREFIX, build_network, read_weights, write_weights
from autoseg.networks.weights import WEIGHT_DTYPES, find_weight_problem


def test_weights_come_back_as_they_were_and_fit_the_network(make_plan, tmp_path: Path) -> None:
    network = build_network(make_plan())
    stored = {NETWORK_PREFIX + name: tensor for name, tensor in network.state_dict().items()}
    save_file({**stored, "optimizer.step": torch.ones(1)}, tmp_path / "checkpoint.safetensors")

    weights = read_weights(tmp_path / "checkpoint.safetensors")

    other = build_network(make_plan())
    other.load_state_dict(weights)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in other.state_dict().items())


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no checkpoint at .*absent\.safetensors; train this fold"):
        read_weights(tmp_path / "absent.safetensors")


def test_a_truncated_checkpoint_is_the_users_error(make_plan, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file({"network.weight": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"checkpoint\.safetensors cannot be read .*copy it again"):
        read_weights(path)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read"):
        read_weights(tmp_path)


def test_a_file_without_a_network_is_the_users_error(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_file({"weight": torch.ones(1)}, path)
    with pytest.raises(RunError, match=r"holds no network: expected tensors named network\."):
        read_weights(path)


def test_written_weights_are_read_again_whatever_their_memory_order(tmp_path: Path) -> None:
    turned = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    write_weights(tmp_path / "a.safetensors", {"a": turned, "b": torch.ones(2)})
    found = read_weights(tmp_path / "a.safetensors")
    assert torch.equal(found["a"], torch.arange(24.0).reshape(1, 2, 3, 4))
    write_weights(tmp_path / "b.safetensors", {"b": torch.ones(2), "a": found["a"]})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot create the folder"):
        write_weights(tmp_path / "file" / "a.safetensors", {"a": torch.ones(1)})


def test_others_may_read_a_checkpoint_as_far_as_the_umask_grants(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_weights(tmp_path / "checkpoint.safetensors", {"weight": torch.ones(2)})
    finally:
        os.umask(before)
    assert (tmp_path / "checkpoint.safetensors").stat().st_mode & 0o777 == 0o640


def test_every_flipped_bit_is_found_or_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    weights = {"a.weight": torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7, "a.count": torch.tensor(5)}
    path = tmp_path / "checkpoint_final.safetensors"
    write_weights(path, weights)
    whole = path.read_bytes()
    found = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            read = read_weights(path)
        except RunError:
            found += 1
        else:
            assert read.keys() == weights.keys()
            assert all(torch.equal(read[name], value) for name, value in weights.items())
    assert found > 0.9 * len(whole)


def test_weights_of_a_version_without_checksums_are_read(tmp_path: Path) -> None:
    save_file({"network.a": torch.ones(3)}, tmp_path / "old.safetensors")
    assert torch.equal(read_weights(tmp_path / "old.safetensors")["a"], torch.ones(3))


@pytest.mark.parametrize("checksums", [torch.tensor(1), torch.ones(2), torch.ones(9, dtype=torch.int64)])
def test_checksums_that_are_none_are_the_users_error(tmp_path: Path, checksums: torch.Tensor) -> None:
    path = tmp_path / "checkpoint_final.safetensors"
    save_file({"network.a": torch.ones(3), "checksums": checksums}, path)
    with pytest.raises(RunError, match=r"checkpoint_final.*its checksums are"):
        read_weights(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_a_dtype_that_no_network_has_are_named(dtype: torch.dtype) -> None:
    problem = find_weight_problem({"a": torch.ones(2).to(dtype)}, {"a": torch.ones(2)})
    assert problem is not None
    assert problem.startswith(f"a holds {dtype}, expected one of torch.float16")


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES)
def test_weights_of_usual_dtypes_and_integer_counters_pass(dtype: torch.dtype) -> None:
    state = {"a": torch.ones(2, dtype=dtype), "num_batches_tracked": torch.tensor(7)}
    assert find_weight_problem(state, {"a": torch.ones(2), "num_batches_tracked": torch.tensor(0)}) is None
