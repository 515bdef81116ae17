import pytest

from autoseg.errors import DeviceError, OptionError, TrainingError
from autoseg.workflows.train.device_groups import find_device_groups, is_main_process, is_one_process, parse_devices

UNITS = ["2d, fold 0", "2d, fold 1"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("text", "names"),
    [("0,1,2", ("cuda:0", "cuda:1", "cuda:2")), ("cpu", ("cpu",)), ("cuda:1, 3", ("cuda:1", "cuda:3"))],
)
def test_cuda_devices_are_named_by_their_numbers(text, names):
    assert parse_devices(text) == names


def test_an_empty_entry_is_refused():
    with pytest.raises(OptionError, match=r"list such as 0,1,2 or cpu, found '0,,1'"):
        parse_devices("0,,1")


def test_every_device_is_a_place_or_all_are_one():
    assert find_device_groups("cpu", None, parallel=False) == (("cpu",),)
    assert find_device_groups("auto", "cpu,cpu", parallel=False) == (("cpu",), ("cpu",))
    assert find_device_groups("auto", "cpu,cpu", parallel=True) == (("cpu", "cpu"),)


def test_a_device_that_does_not_exist_is_refused_before_anything_begins():
    with pytest.raises(DeviceError, match="no device cuda:99"):
        find_device_groups("auto", "99", parallel=False)


@pytest.mark.parametrize(
    ("device", "devices", "parallel", "message"),
    [("cpu", "cpu", False, "not both"), ("cpu", None, True, "--devices 0,1"), ("auto", "cpu", True, "--devices 0,1")],
)
def test_options_that_contradict_each_other_are_refused(device, devices, parallel, message):
    with pytest.raises(OptionError, match=message):
        find_device_groups(device, devices, parallel=parallel)


def test_one_of_several_processes_has_one_device(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert find_device_groups("cpu", None, parallel=True) == (("cpu",),)
    assert find_device_groups("auto", "cpu,cpu", parallel=True) == (("cpu",),)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(OptionError, match="process 2 of this computer"):
        find_device_groups("auto", "cpu,cpu", parallel=True)


def test_of_several_processes_the_first_one_writes(monkeypatch):
    assert is_main_process(parallel=True)
    monkeypatch.setenv("RANK", "1")
    assert not is_main_process(parallel=True)
    assert is_main_process(parallel=False)
    monkeypatch.setenv("RANK", "0")
    assert is_main_process(parallel=True)


def test_one_fold_on_one_device_needs_no_other_process():
    assert is_one_process(UNITS[:1], (("cpu",),), parallel=False)
    assert not is_one_process(UNITS, (("cpu",),), parallel=False)
    assert not is_one_process(UNITS[:1], (("cpu", "cpu"),), parallel=True)
    assert is_one_process(UNITS[:1], (("cpu",),), parallel=True)
    with pytest.raises(TrainingError, match=r"2d, fold 0, 2d, fold 1.*--fold"):
        is_one_process(UNITS, (("cpu",),), parallel=True)
