import logging
import re
from subprocess import CalledProcessError

import pytest
import torch
from builders.clocks import Clock
from builders.graphs import TapeGraphs
from builders.networks import build_small_network_plan
from builders.plans import build_configuration

from autoseg.errors import DeviceError
from autoseg.inference.execution import batch_size as pass_size
from autoseg.inference.execution import choice as execution_choice
from autoseg.inference.execution.batch_size import find_inference_conditions
from autoseg.inference.execution.choice import (
    Setting,
    check_available,
    count_patches,
    is_large,
    prepare_networks,
)
from autoseg.inference.execution.compiled_network import CompiledNetwork, compile_networks, find_compiler
from autoseg.inference.execution.openvino_network import OpenvinoNetwork, convert_network, find_openvino_version
from autoseg.inference.execution.trial_records import ExecutionRecord, find_fastest
from autoseg.inference.options import ONE_IMAGE, PredictionOptions, Workload
from autoseg.networks import build_network
from autoseg.networks.fusion import FusibleModule
from autoseg.runtime.captured_network import CapturedNetwork
from autoseg.runtime.measurement_cache import find_measurement_cache

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(
    find_openvino_version() is None, reason="OpenVINO is not installed (pip install autoseg[openvino])"
)


@pytest.fixture
def configuration():
    return build_configuration((16, 16, 16), mirror_axes=(0, 1, 2))


@pytest.fixture
def build(configuration):
    def build(seed=0):
        network = build_network(configuration.network, torch.Generator().manual_seed(seed)).eval()
        network.set_deep_supervision(enabled=False)
        return network

    return build


@pytest.fixture
def record(configuration):
    def record(execution, *, start=0.0, per_patch=1.0, difference=0.0, dtype="float32"):
        return ExecutionRecord(
            circumstances=find_inference_conditions(configuration, dtype),
            execution=execution,
            made_by="1",
            inference_batch_size=1,
            start_seconds=start,
            seconds_per_patch=per_patch,
            difference=difference,
        )

    return record


@pytest.fixture
def prepare(configuration, tmp_path, monkeypatch):
    """Prepares with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def prepare(networks, choice, *, dtype="float32", images=1):
        setting = Setting(configuration=configuration, device=CPU, dtype=dtype)
        return prepare_networks(networks, setting, choice=choice, workload=Workload(images=images))

    return prepare


@pytest.mark.parametrize(("patches", "expected"), [(10, "eager"), (99, "eager"), (101, "compiled")])
def test_what_takes_long_to_begin_is_taken_only_if_it_pays(record, patches, expected):
    records = [record("eager"), record("compiled", start=50, per_patch=0.5)]
    assert find_fastest(records, patches).execution == expected


@pytest.mark.parametrize(("dtype", "difference", "expected"), [
    ("float32", 9e-4, "openvino"),
    ("float32", 2e-3, "eager"),
    ("bfloat16", 0.04, "openvino"),
    ("bfloat16", 0.06, "eager"),
])  # fmt: skip
def test_what_differs_too_much_is_never_taken(record, dtype, difference, expected):
    eager = record("eager", dtype=dtype)
    other = record("openvino", per_patch=0.1, difference=difference, dtype=dtype)
    assert find_fastest([eager, other], 10**6).execution == expected


def test_patches_of_a_job_are_images_times_windows_times_views_times_folds():
    plan = build_configuration((16, 16, 16), mirror_axes=(0, 2)).model_copy(
        update={"median_shape_voxels": (16, 24, 40)}
    )
    assert count_patches(ONE_IMAGE, plan, 1) == 2 * 4 * 4
    assert count_patches(Workload(images=7), plan, 5) == 7 * 2 * 4 * 4 * 5
    plain = Workload(options=PredictionOptions(mirroring=False, step_fraction=1.0))
    assert count_patches(plain, plan, 1) == 2 * 3
    assert count_patches(Workload(images=3), build_configuration((8, 8)), 1) == 3


def test_only_long_jobs_try_anything(configuration):
    on_cpu, on_gpu, elsewhere = (
        Setting(configuration=configuration, device=torch.device(name), dtype="bfloat16")
        for name in ("cpu", "cuda", "mps")
    )
    assert not is_large(Workload(images=16_000), on_cpu, 1)
    assert is_large(Workload(images=16_400), on_cpu, 1)
    assert is_large(Workload(images=3300), on_cpu, 5)
    assert not is_large(Workload(images=64_000), on_gpu, 1)
    assert is_large(Workload(images=65_600), on_gpu, 1)
    assert not is_large(Workload(images=10**9), elsewhere, 1)


def test_a_short_job_takes_pytorch_as_it_is_and_remembers_no_trial(prepare, build):
    prepared = prepare([build()], "auto", images=20)
    assert prepared.execution == "eager"
    assert not find_measurement_cache("executions").exists()


@pytest.fixture
def clock(monkeypatch):
    """Every look takes a second, which makes each pass of each trial equally long."""
    for module in (execution_choice, pass_size):
        monkeypatch.setattr(module, "time", Clock(seconds_per_look=1.0))


@pytest.fixture
def install(monkeypatch):
    """Takes what is installed from a dictionary, built by a function; eager networks are built as always."""
    usual = execution_choice._build

    def install(available, build=None):
        def build_any(execution, networks, setting, *, inference_batch_size, **further):
            if execution == "eager":
                return usual(execution, networks, setting, inference_batch_size=inference_batch_size)
            return tuple(build(execution, network) for network in networks)

        monkeypatch.setattr(execution_choice, "list_available", lambda setting: available)
        monkeypatch.setattr(execution_choice, "_build", build_any)

    return install


@pytest.mark.usefixtures("clock")
def test_a_long_job_tries_what_is_installed_once_and_announces_the_choice(prepare, build, caplog, install):
    caplog.set_level(logging.INFO)
    tried = []

    def build_another(execution, network):
        tried.append(execution)
        return network

    install({"openvino": "1", "compiled": "2"}, build_another)
    prepared = prepare([build(), build(1)], "auto", images=100_000)
    assert tried == ["openvino", "compiled"]
    assert (prepared.execution, len(prepared.networks)) == ("eager", 2)
    assert "networks run eager here" in caplog.text
    tried.clear()
    prepare([build(), build(1)], "auto", images=100_000)
    assert not tried


@pytest.mark.usefixtures("clock")
def test_another_version_is_tried_again(prepare, build, install):
    tried = []
    for made_by in ("1", "1", "2"):
        install({"openvino": made_by}, lambda execution, network: tried.append(execution) or network)
        prepare([build()], "auto", images=100_000)
    assert len(tried) == 2


@pytest.mark.usefixtures("clock")
def test_what_is_faster_is_taken(prepare, build, install, monkeypatch):
    install({"openvino": "1"}, lambda execution, network: network)
    monkeypatch.setattr(execution_choice, "time_pass", lambda network, patches: next(seconds))
    seconds = iter([3.0, 3.0, 1.0, 1.0])  # first PyTorch as it is, then OpenVINO
    prepared = prepare([build()], "auto", images=100_000)
    assert prepared.execution == "openvino"


@pytest.mark.usefixtures("clock")
def test_every_way_to_run_a_network_gets_it_with_fused_modules(prepare, install):
    network = build_network(build_small_network_plan("block rep", 3, input_channels=1)).eval()
    network.set_deep_supervision(enabled=False)
    tried = []

    def build_another(execution, network):
        tried.extend(network.modules())
        return network

    install({"openvino": "1"}, build_another)
    prepare([network], "auto", images=100_000)
    assert tried
    assert not any(isinstance(module, FusibleModule) for module in tried)


@pytest.mark.usefixtures("clock")
def test_networks_that_have_no_room_for_a_trial_run_as_they_are(prepare, build, caplog, monkeypatch):
    def fail(network, patches):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(execution_choice, "list_available", lambda setting: {"openvino": "1"})
    monkeypatch.setattr(execution_choice, "_start", fail)
    assert prepare([build()], "auto", images=100_000).execution == "eager"
    assert "eager cannot be timed: " in caplog.text


@pytest.mark.usefixtures("clock")
def test_what_computes_something_else_is_reported_and_not_taken(prepare, build, caplog, install):
    install({"openvino": "1"}, lambda execution, network: build(5))
    assert prepare([build()], "auto", images=100_000).execution == "eager"
    assert "standard deviations and is not used" in caplog.text
    with pytest.raises(DeviceError, match="standard deviations, found"):
        prepare([build()], "openvino")


class TritonError(Exception):
    """As Triton's own: no RuntimeError."""


FAILURES = [
    (RuntimeError("no such operation\nand much more"), "no such operation"),
    (TritonError("no such operation\nand much more"), "TritonError: no such operation"),
    (FileNotFoundError("Python.h"), "FileNotFoundError: Python.h"),
    (CalledProcessError(1, "gcc"), "CalledProcessError: Command 'gcc' returned non-zero exit status 1."),
]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(("failure", "told"), FAILURES)
def test_what_does_not_work_is_reported_and_not_taken(prepare, build, caplog, install, *, failure, told):
    def fail(execution, network):
        raise failure

    install({"compiled": "1"}, fail)
    assert prepare([build()], "auto", images=100_000).execution == "eager"
    assert f"compiled does not work here and is not used: {told}" in caplog.text
    with pytest.raises(DeviceError, match=re.escape(f"does not work here: {told}; use --execution eager")):
        prepare([build()], "compiled")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("compiled", "needs a C\\+\\+ compiler"),
        ("openvino", "pip install"),
    ],
)
def test_what_is_not_installed_is_refused_with_the_way_to_install_it(prepare, install, build, *, choice, message):
    install({})
    with pytest.raises(DeviceError, match=message):
        prepare([build()], choice)


def test_an_unknown_execution_is_answered_with_the_known_ones(configuration):
    setting = Setting(configuration=configuration, device=torch.device("cpu"), dtype="float32")
    with pytest.raises(DeviceError, match="'fast'; choose one of: auto, eager, compiled"):
        check_available("fast", setting)


def test_other_devices_have_no_other_execution(configuration, build):
    setting = Setting(configuration=configuration, device=torch.device("meta"), dtype="float32")
    for choice in ("compiled", "openvino", "captured", "fused"):
        with pytest.raises(DeviceError, match="the device is meta, the precision float32"):
            prepare_networks([build()], setting, choice=choice, workload=ONE_IMAGE)
    assert prepare_networks([build()], setting, choice="auto", workload=ONE_IMAGE).inference_batch_size is None


@pytest.mark.parametrize(
    ("dtype", "has_triton", "expected"),
    [
        ("bfloat16", True, ["captured", "fused", "compiled"]),
        ("float32", True, ["captured", "compiled"]),
        ("bfloat16", False, ["captured"]),
    ],
)
def test_a_gpu_has_ways_of_its_own(configuration, monkeypatch, *, dtype, has_triton, expected):
    monkeypatch.setattr(execution_choice, "has_fused_normalization", lambda: has_triton)
    monkeypatch.setattr(execution_choice, "find_compiler", lambda: "g++")
    setting = Setting(configuration=configuration, device=torch.device("cuda"), dtype=dtype)
    assert list(execution_choice.list_available(setting)) == expected


@pytest.fixture
def graphs(monkeypatch):
    """Takes the place of CUDA graphs; the CPU passes for a GPU that has them."""
    graphs = TapeGraphs()
    monkeypatch.setattr(execution_choice, "build_graphs", lambda device: graphs)
    monkeypatch.setattr(execution_choice, "list_available", lambda setting: {"captured": "1"})
    monkeypatch.setitem(execution_choice.TRIAL_SECONDS, "cpu", {"captured": 1.0})
    return graphs


@pytest.mark.usefixtures("clock")
@torch.inference_mode()
def test_passes_that_are_captured_are_tried_compared_and_taken_where_they_are_faster(prepare, build, graphs, *, caplog):
    caplog.set_level(logging.INFO)
    prepared = prepare([build(), build(1)], "auto", images=100_000)
    assert prepared.execution == "eager"  # every pass takes as long as any other
    assert "captured" in caplog.text
    assert graphs.calls.count("capture") == 1
    chosen = prepare([build(), build(1)], "captured")
    assert chosen.execution == "captured"
    patches = torch.randn(chosen.inference_batch_size, 1, 16, 16, 16)
    for network, expected in zip(chosen.networks, prepared.networks, strict=True):
        for factor in range(5):
            assert torch.equal(network(factor * patches)[0], expected(factor * patches)[0])


@pytest.mark.usefixtures("clock")
def test_passes_that_cannot_be_captured_are_no_choice(prepare, build, graphs, *, caplog):
    graphs.failure = RuntimeError("no memory for it")
    assert prepare([build()], "auto", images=100_000).execution == "eager"
    assert "captured does not work here and is not used: capturing one failed (RuntimeError: no memory" in caplog.text
    with pytest.raises(DeviceError, match="captured does not work here: capturing one failed"):
        prepare([build()], "captured")


@torch.inference_mode()
def test_a_short_job_of_many_passes_is_captured_without_a_trial(prepare, build, graphs):
    networks = [build(), build(1)]
    few, many = (prepare(networks, "auto", images=images) for images in (5, 20))
    assert (few.execution, many.execution, many.inference_batch_size) == ("eager", "captured", 2)
    assert not find_measurement_cache("executions").exists()
    patches = torch.randn(2, 1, 16, 16, 16)
    for network, expected in zip(many.networks, few.networks, strict=True):
        for factor in range(5):
            assert torch.equal(network(factor * patches)[0], expected(factor * patches)[0])
    assert graphs.calls.count("capture") == 2


@torch.inference_mode()
def test_a_short_job_whose_passes_are_not_captured_runs_as_it_is(prepare, build, graphs, *, caplog):
    graphs.failure = TritonError("no memory for it")
    prepared = prepare([build()], "auto", images=20)
    assert prepared.execution == "eager"
    assert "captured does not work here and is not used: capturing one failed (TritonError: no memory" in caplog.text
    assert not any(isinstance(module, CapturedNetwork) for module in prepared.networks)


@torch.inference_mode()
def test_a_captured_pass_that_computes_something_else_is_not_taken(prepare, build, graphs, *, monkeypatch, caplog):
    monkeypatch.setattr(execution_choice, "capture_networks", lambda networks, graphs, **options: [build(5)])
    monkeypatch.setattr(execution_choice, "_check_captured", lambda network: None)
    assert prepare([build()], "auto", images=20).execution == "eager"
    assert "captured does not work here and is not used: its logits differ by" in caplog.text


def test_the_compiler_is_the_one_that_cxx_names_or_a_usual_one(tmp_path, monkeypatch):
    for name in ("g++", "special"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert find_compiler() == str(tmp_path / "g++")
    monkeypatch.setenv("CXX", "special")
    assert find_compiler() == str(tmp_path / "special")
    monkeypatch.setenv("CXX", "missing")
    assert find_compiler() is None


@torch.inference_mode()
def test_only_passes_of_the_compiled_size_take_the_compiled_way(build):
    network = build()
    sizes = []

    def call(weights, image):
        assert image.shape[1:] == (1, 16, 16, 16)
        assert weights.keys() == network.state_dict().keys()
        sizes.append(len(image))
        return (torch.zeros(2, 3, 16, 16, 16),)

    compiled = CompiledNetwork(network, call, 2)
    assert compiled(torch.ones(2, 1, 16, 16, 16))[0].count_nonzero() == 0
    odd = torch.ones(1, 1, 16, 16, 16)
    assert torch.equal(compiled(odd)[0], network(odd)[0])
    assert sizes == [2]


@needs_openvino
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
@torch.inference_mode()
def test_openvino_computes_the_network_in_the_wanted_numbers_for_passes_of_any_size(build, dtype, tolerance):
    network = build()
    converted = convert_network(network, channels=1, patch_voxels=(16, 16, 16), dtype=dtype)
    for count in (1, 3):
        image = torch.randn(count, 1, 16, 16, 16)
        expected, found = network(image)[0], converted(image)[0]
        assert found.dtype == torch.float32
        assert (found - expected).abs().mean() < tolerance * expected.std()
    kept = converted(image)[0]
    before = kept.clone()
    converted(torch.zeros_like(image))
    assert torch.equal(kept, before)  # an answer is not overwritten by the next one


@needs_openvino
def test_openvino_can_be_chosen_for_all_folds(prepare, build):
    prepared = prepare([build(), build(1)], "openvino")
    assert (prepared.execution, len(prepared.networks)) == ("openvino", 2)


@needs_openvino
def test_what_openvino_cannot_convert_is_reported_as_such():
    class Unknown(torch.nn.Module):
        def forward(self, image):
            return (torch.linalg.eigvals(image),)

    with pytest.raises(RuntimeError, match="OpenVINO cannot convert the network"):
        convert_network(Unknown(), channels=1, patch_voxels=(4, 4), dtype="float32")


def test_openvino_compiles_for_the_number_of_threads_of_the_moment_and_keeps_the_last_two():
    made_for, used = [], []

    def compile_for(threads):
        made_for.append(threads)

        def compute(image):
            used.append(threads)
            return [image]

        return compute

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        network = OpenvinoNetwork(compile_for)
        assert made_for == [2]
        for threads in (2, 1, 2, 1, 3, 1):
            torch.set_num_threads(threads)
            network(torch.zeros(1, 1, 2, 2))
    finally:
        torch.set_num_threads(before)
    assert used == [2, 1, 2, 1, 3, 1]
    assert made_for == [2, 1, 3]


class Rectified(torch.nn.Conv3d):
    """A network without annotations, whose checks in a test run cannot be compiled."""

    def forward(self, image):
        return (torch.relu(super().forward(image)),)


def test_what_is_compiled_serves_any_number_of_threads(monkeypatch):
    compile_function, compiled = torch.compile, []

    def keep_as_it_is(module, inputs):  # in place of the C++ compiler
        compiled.append(module)
        return module.forward

    def compile_without_compiler(call, **settings):
        chosen = {"guard_filter_fn": settings.pop("options")["guard_filter_fn"]}
        return compile_function(call, **settings, backend=keep_as_it_is, options=chosen)

    monkeypatch.setattr(torch, "compile", compile_without_compiler)
    (network,) = compile_networks([Rectified(1, 1, 1)], inference_batch_size=1)
    before, image = torch.get_num_threads(), torch.zeros(1, 1, 4, 4, 4)
    try:
        with torch.inference_mode():
            for threads in range(1, 13):  # more than PyTorch compiles one function for
                torch.set_num_threads(threads)
                network(image)
    finally:
        torch.set_num_threads(before)
    assert len(compiled) == 1


def test_what_is_compiled_does_not_fix_the_number_of_threads(build, monkeypatch):
    options = {}
    monkeypatch.setattr(torch, "compile", lambda call, **settings: options.update(settings["options"]) or call)
    compile_networks([build()], inference_batch_size=1)
    assert options["cpp.dynamic_threads"] is True
