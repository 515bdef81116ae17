import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from builders.clocks import Clock
from builders.graphs import TapeGraphs
from builders.triton_double import install_triton

from autoseg.document import read_document
from autoseg.networks.first_convolution import FORMS
from autoseg.runtime.distributed import ProcessGroup
from autoseg.training import compiling_beside, execution_choice
from autoseg.training import execution as training_execution
from autoseg.training.budget import execution_decision as decision
from autoseg.training.budget.execution_decision import decide_execution, list_variants
from autoseg.training.budget.pace import Budget
from autoseg.training.budget.remembered_trials import LONGER, StoredExecution, TrialMemory
from autoseg.training.compiling_beside import CompilingBeside, CompilingTask
from autoseg.training.data.batch import Batch
from autoseg.training.execution import (
    CACHE_VARIABLE,
    TrainingExecution,
    find_execution,
    find_fusing_problem,
    prepare_compiler,
)
from autoseg.training.execution_choice import choose_execution
from autoseg.training.optimization.schedule import Schedule
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner
from autoseg.training.step_graph import StepGraph

CPU = torch.device("cpu")
COMPILER = "aot_eager"
SCRIPT = Path(__file__).with_name("compiling.py")
PLAIN = torch.contiguous_format


@pytest.fixture
def build(plan_configuration, labels):
    """Makes a learner of the tiny network that is executed in a given way."""

    def make(execution, *, dimensions=2):
        return build_learner(plan_configuration(dimensions=dimensions), labels, device=CPU, seed=0, execution=execution)

    return make


def make_batch(dimensions=2):
    image = torch.randn((2, 1, *(16,) * dimensions), generator=torch.Generator().manual_seed(0))
    return Batch(image=image, label_map=(image[:, 0] > 1).to(torch.int16))


@pytest.fixture(scope="module")
def outcome():
    """What `compiling.py` says."""
    return {}


@pytest.fixture
def compiled(outcome, plan_configuration, labels, tmp_path):
    """What happens when a tiny network is really compiled; once for all tests."""
    if not outcome:
        path = tmp_path / "plan.json"
        plan = plan_configuration()
        path.write_text(json.dumps({"plan": plan.model_dump(mode="json"), "labels": labels.model_dump(mode="json")}))
        done = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        outcome |= json.loads(done.stdout)
    return outcome


@pytest.mark.parametrize("way", ["channels last", "compiled", "both"])
def test_all_ways_to_execute_a_network_train_and_validate_alike(compiled, way):
    assert len(set(compiled["losses"]["plain"])) == 5
    assert compiled["losses"][way] == pytest.approx(compiled["losses"]["plain"], abs=1e-4)


@pytest.mark.parametrize("failing", [torch.channels_last, PLAIN])
def test_a_memory_format_that_does_not_fit_is_left_out_and_told(build, monkeypatch, failing):
    told = []
    attempt = execution_choice._try

    def run_short(build, execution, batch):
        if execution.memory_format == failing:
            msg = "no room"
            raise torch.OutOfMemoryError(msg)
        return attempt(build, execution, batch)

    monkeypatch.setattr(execution_choice, "_try", run_short)
    batch = make_batch()
    chosen = choose_execution(build, batch, iterations=1, announce=told.append)
    assert chosen.memory_format != failing
    assert "is left out, because it failed (OutOfMemoryError: no room)" in told[0]
    monkeypatch.setattr(
        execution_choice, "_try", lambda *_: run_short(build, TrainingExecution(memory_format=failing), batch)
    )
    with pytest.raises(torch.OutOfMemoryError):
        choose_execution(build, batch, iterations=1, announce=told.append)


def test_a_compiled_network_is_compared_and_what_was_measured_is_announced(compiled):
    told = compiled["choices"]["aot_eager"]["told"]
    assert len(told) == 2
    assert re.search(r"channels last \S+ s, channels first \S+ s, .*, compiled \S+ s; .*taken: ", told[1])


def test_a_network_that_cannot_be_compiled_is_trained_as_it_is_and_why_is_announced(compiled):
    choice = compiled["choices"]["refusing"]
    assert not choice["is_compiled"]
    assert re.search(r"not compiled, because that failed \(.*\); taken: channel", choice["told"][1])
    assert "refusing" in choice["told"][1]
    assert "\n" not in choice["told"][1]
    assert choice["loss"] == pytest.approx(compiled["losses"]["plain"][0], abs=1e-4)


class Steps:
    """Steps of training that take what the test says of the learner's execution, and are counted."""

    def __init__(self, monkeypatch, *, channels_last, plain, compiled):
        self.count, clock = 0, Clock()

        def run(learner, batch):
            is_compiled = learner.replica is not learner.network
            seconds = plain if learner.memory_format == PLAIN else channels_last
            clock.now += compiled if is_compiled else seconds
            self.count += 1
            return 1.0

        monkeypatch.setattr(execution_choice, "time", clock)
        monkeypatch.setattr(execution_choice, "run_training_step", run)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"channels_last": 1.0, "plain": 2.0, "compiled": 0.5}, "channels last, compiled"),
        ({"channels_last": 2.0, "plain": 1.0, "compiled": 0.5}, "channels first, compiled"),
        ({"channels_last": 1.0, "plain": 2.0, "compiled": 1.5}, "channels last"),
        ({"channels_last": 3.0, "plain": 2.0, "compiled": 2.5}, "channels first"),
    ],
)
def test_the_fastest_way_is_taken_and_announced(build, monkeypatch, seconds, chosen):
    told = []
    Steps(monkeypatch, **seconds)
    taken = choose_execution(build, make_batch(), iterations=10**6, announce=told.append, compiler=COMPILER)
    assert taken.describe() == chosen
    assert f"channels last {seconds['channels_last']:g} s, channels first {seconds['plain']:g} s" in told[-1]
    assert f"compiled {seconds['compiled']:g} s" in told[-1]
    assert told[-1].endswith(f"taken: {chosen}")


NEVER_COMPILED = {"pays_from_seconds": math.inf}


class TritonError(Exception):
    """As Triton's own: no RuntimeError."""


def fail(error):
    raise error


VARIANTS = [{"first_convolution": form} for form in FORMS] + [{"dtype": "float16"}]


class Learners:
    """Learners of one network on a device without graphs; tells how each is executed."""

    def __init__(self, plain):
        self.plain, self.made = plain, []

    def make(self, execution):
        graph = StepGraph(backend=TapeGraphs(), announce=print, problem="there are none")
        learner = replace(
            self.plain, memory_format=execution.memory_format, graph=graph if execution.is_captured else None
        )
        self.made.append((learner, execution))
        return learner

    def find(self, learner):
        return next(execution for each, execution in self.made if each is learner)


@pytest.fixture
def learners(build, monkeypatch):
    monkeypatch.setattr(execution_choice.gc, "collect", lambda: 0)  # nothing is freed, and it takes a while
    return Learners(build(TrainingExecution(memory_format=PLAIN)))


@pytest.mark.parametrize(
    ("channels_last", "faster", "chosen"),
    [
        (1.0, {"product", "float16"}, "channels last, first convolution product, float16"),
        (1.0, set(), "channels last"),
        (3.0, {"padded"}, "channels first"),  # there the convolution of the image is as all others
    ],
)
def test_variants_of_the_fastest_execution_are_tried_in_turn(learners, monkeypatch, channels_last, *, faster, chosen):
    told, clock = [], Clock()

    def run(learner, batch):
        way = learners.find(learner)
        seconds = channels_last if way.memory_format != PLAIN else 2.0
        clock.now += seconds * 0.9 ** len({way.first_convolution, way.dtype} & faster)
        return 1.0

    monkeypatch.setattr(execution_choice, "time", clock)
    monkeypatch.setattr(execution_choice, "run_training_step", run)
    taken = choose_execution(
        learners.make, make_batch(), iterations=10**5, announce=told.append, variants=VARIANTS, **NEVER_COMPILED
    )
    assert taken.describe() == chosen
    if channels_last < 2 and not faster:
        assert "first convolution padded 1 s is not worth it" in told[-1]


def test_a_training_of_a_minute_tries_no_variant(learners, monkeypatch):
    monkeypatch.setattr(execution_choice, "time", Clock(seconds_per_look=1.0))
    monkeypatch.setattr(execution_choice, "run_training_step", lambda learner, batch: 1.0)
    choose_execution(learners.make, make_batch(), iterations=60, announce=print, variants=VARIANTS)
    assert not any(execution.first_convolution or execution.dtype for _, execution in learners.made)


def test_a_gpu_tries_forms_of_the_first_convolution_and_float16_where_they_make_sense(plan_configuration):
    def list_for(dtype="bfloat16", **settings):
        options = TrainingOptions(device=torch.device("cuda"), seed=0, workers=0, dtype=dtype, **settings)
        return list_variants(plan_configuration(), options)

    assert list_for(is_dtype_free=True) == VARIANTS
    assert list_for() == VARIANTS[:-1]
    assert list_for("float32", is_dtype_free=True) == []


@pytest.mark.parametrize(("step", "wrong"), [(0, 1.03), (1, 1.03), (5, 1.2)])
def test_an_execution_whose_losses_take_another_course_is_left_out(learners, monkeypatch, step, wrong):
    """A graph that keeps its first batch has the right first loss."""
    told, batches, steps = [], [], Counter()

    def run(learner, batch):
        batches.append(batch.image)
        steps[id(learner)] += 1
        is_reformed = learners.find(learner).first_convolution is not None
        return wrong if is_reformed and steps[id(learner)] == step + 1 else 1.0

    monkeypatch.setattr(execution_choice, "time", Clock(seconds_per_look=1.0))
    monkeypatch.setattr(execution_choice, "run_training_step", run)
    choose_execution(
        learners.make, make_batch(), iterations=10**5, announce=told.append, variants=VARIANTS[:1], **NEVER_COMPILED
    )
    assert f"padded is left out, because its loss is {wrong:g} instead of 1 in step {step + 1}" in told[-1]
    assert not torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])


@pytest.fixture
def with_fused(monkeypatch):
    """The fused normalization can be had."""
    monkeypatch.setattr(execution_choice, "has_fused_normalization", lambda: True)


@pytest.mark.usefixtures("with_fused")
@pytest.mark.parametrize(("fused", "chosen"), [(0.5, "channels last, fused normalization"), (3.0, "channels first")])
def test_steps_that_are_not_captured_are_tried_with_the_fused_normalization(learners, monkeypatch, fused, chosen):
    told, clock = [], Clock()

    def run(learner, batch):
        way = learners.find(learner)
        clock.now += fused if way.is_norm_fused else 2.0 if way.memory_format != PLAIN else 1.0
        return 1.0

    monkeypatch.setattr(execution_choice, "time", clock)
    monkeypatch.setattr(execution_choice, "run_training_step", run)
    taken = choose_execution(learners.make, make_batch(), iterations=10, announce=told.append)
    assert taken.describe() == chosen
    assert "not captured as a CUDA graph, because there are none" in told[-1]
    assert f"channels last, fused normalization {fused:g} s" in told[-1]


@pytest.mark.usefixtures("with_fused")
@pytest.mark.parametrize(
    "failure",
    [RuntimeError("no"), TritonError("no"), FileNotFoundError("no"), subprocess.CalledProcessError(1, "gcc")],
)
def test_a_kernel_that_cannot_be_compiled_is_left_out_and_told(learners, monkeypatch, failure):
    told = []

    def run(learner, batch):
        if learners.find(learner).is_norm_fused:
            raise failure
        return 1.0

    monkeypatch.setattr(execution_choice, "run_training_step", run)
    taken = choose_execution(learners.make, make_batch(), iterations=10, announce=told.append)
    assert not taken.is_norm_fused
    assert f"channels last, fused normalization is left out, because that failed ({type(failure).__name__}" in told[-1]


def test_no_further_execution_is_tried_when_trials_have_taken_their_share(learners, monkeypatch):
    told = []
    monkeypatch.setattr(execution_choice, "time", Clock(seconds_per_look=1.0))
    monkeypatch.setattr(execution_choice, "run_training_step", lambda learner, batch: 1.0)
    options = {"variants": VARIANTS, "announce": told.append, **NEVER_COMPILED}
    choose_execution(learners.make, make_batch(), iterations=1000, **options)
    assert not any(execution.first_convolution or execution.dtype for _, execution in learners.made)
    assert re.search(r"no further execution is tried, as trials have taken \d+ of 1000 s", told[-1])
    choose_execution(learners.make, make_batch(), iterations=10**5, seconds=1000.0, **options)
    assert "of 1000 s" in told[-1]


class TestRemembered:
    """What trials have found is taken by the next training under the same conditions."""

    @pytest.fixture(autouse=True)
    def prepare(self, learners, monkeypatch, tmp_path):
        self.told, self.failing = [], set()
        self.memory, self.learners = TrialMemory(path=tmp_path / "trials.json"), learners

        def run(learner, batch):
            way = learners.find(learner)
            if way.memory_format in self.failing:
                raise torch.OutOfMemoryError
            clock.now += 1.0 if way.memory_format == PLAIN else 2.0
            return 1.0

        clock = Clock()
        monkeypatch.setattr(execution_choice, "time", clock)
        monkeypatch.setattr(execution_choice, "run_training_step", run)

    def choose(self, **options):
        self.learners.made.clear()
        options = {"iterations": 10**5, "variants": VARIANTS, "announce": self.told.append} | NEVER_COMPILED | options
        taken = choose_execution(self.learners.make, make_batch(), memory=self.memory, **options)
        return taken, len(self.learners.made)

    def test_it_is_timed_once_and_taken(self):
        first, count = self.choose()
        assert count > 3
        assert self.choose() == (first, 1)
        assert self.told[-1].startswith("a step takes: channels first 1 s; taken from earlier trials; not compiled")

    def test_what_fails_now_is_measured_anew_and_told(self):
        self.choose()
        self.failing.add(PLAIN)
        taken, count = self.choose()
        assert taken.memory_format != PLAIN
        assert count > 2
        assert "channels first, which earlier trials have taken, failed (OutOfMemoryError" in self.told[-3]

    def test_a_training_that_would_try_more_does(self):
        _, few = self.choose(iterations=100)
        assert self.choose(iterations=int(100 * LONGER))[1] == 1
        assert self.choose(iterations=10**5)[1] > few
        assert self.choose(iterations=100)[1] == 1

    @pytest.mark.parametrize("text", ["{", '{"schema_version": 99}'])
    def test_what_cannot_be_read_is_measured_anew(self, text):
        self.choose()
        self.memory.path.write_text(text)
        assert self.choose()[1] > 2

    def test_a_compiled_step_that_was_slower_is_not_compiled_again(self, monkeypatch):
        compared = []

        def compare(build, execution, batch, *, reference):
            compared.append(execution)
            return [execution_choice.Trial(execution=execution, step_seconds=9.0, losses=())], "it is compared"

        monkeypatch.setattr(execution_choice, "_try_compiled", compare)
        self.choose(pays_from_seconds=1.0)
        self.choose(pays_from_seconds=1.0)
        assert len(compared) == 1
        assert "not compiled, which was slower in earlier trials" in self.told[-1]


def test_an_execution_is_stored_with_all_that_it_says():
    whole = TrainingExecution(
        memory_format=torch.channels_last_3d,
        compiler="inductor",
        is_captured=True,
        is_norm_fused=True,
        first_convolution=next(iter(FORMS)),
        dtype="float16",
    )
    for execution in (whole, TrainingExecution(memory_format=PLAIN)):
        stored = StoredExecution.store(execution)
        assert StoredExecution.model_validate_json(stored.model_dump_json()).restore(3) == execution
    assert set(StoredExecution.model_fields) - {"is_channels_last"} == {
        field.name for field in fields(TrainingExecution) if field.name != "memory_format"
    }


def test_a_compiler_that_is_not_there_is_no_obstacle(build, monkeypatch):
    told = []
    Steps(monkeypatch, channels_last=1.0, plain=2.0, compiled=0.5)
    taken = choose_execution(build, make_batch(), iterations=10**6, announce=told.append, compiler="nobody")
    assert taken == TrainingExecution(memory_format=torch.channels_last)
    assert "not compiled, because that failed (InvalidBackend" in told[-1]


WORKS, FAILS, LASTS = "pass", "import sys; sys.exit('no memory for it')", "import time; time.sleep(100)"


@pytest.fixture
def beside(plan_configuration, labels, monkeypatch):
    """Compiles beside a training on a device with room for both; what the process does is a program of a line."""
    told, start = [], compiling_beside.start_child
    options = TrainingOptions(device=CPU, seed=0, workers=0, announce=told.append)
    compiling = CompilingBeside(plan=plan_configuration(), labels=labels, options=options)

    def use(program):
        def start_program(command, *, log, environment):
            assert read_document(Path(command[-1]), CompilingTask).plan == compiling.plan
            return start([sys.executable, "-S", "-c", program], log=log, environment=environment)

        monkeypatch.setattr(compiling_beside, "start_child", start_program)
        monkeypatch.setattr(CompilingBeside, "has_room", lambda self: True)
        return compiling, told

    yield use
    compiling.close()


@pytest.mark.parametrize(("seconds", "is_taken"), [(0.5, True), (1.5, False)])
def test_a_network_is_compiled_beside_the_training_and_taken_if_it_is_faster(
    build, beside, monkeypatch, *, seconds, is_taken
):
    (compiling, told), remembered = beside(WORKS), []
    Steps(monkeypatch, channels_last=1.0, plain=2.0, compiled=seconds)
    options = {"compiler": COMPILER, "beside": compiling, "remember": remembered.append, "announce": told.append}
    assert choose_execution(build, make_batch(), iterations=10**6, **options).describe() == "channels last"
    assert "compiled beside the first epochs" in told[-1]
    compiling._child.process.wait()
    later = compiling.take()
    assert (later is not None) == is_taken
    assert remembered == ([later] if is_taken else [])
    assert told[-1].endswith(f"taken: channels last{', compiled' if is_taken else ''}")
    assert compiling.take() is None  # it is asked after every epoch


def test_a_process_that_fails_to_compile_is_announced_and_the_training_goes_on(beside):
    compiling, told = beside(FAILS)
    compiling.start(TrainingExecution(memory_format=PLAIN, compiler=COMPILER), compare=lambda: None)
    compiling._child.process.wait()
    assert compiling.take() is None
    assert len(told) == 1
    assert told[0].startswith("the network is trained as it is, because compiling it failed (no memory for it")


def test_a_training_that_ends_stops_the_process_that_compiles(beside):
    compiling, told = beside(LASTS)
    compiling.start(TrainingExecution(memory_format=PLAIN, compiler=COMPILER), compare=lambda: None)
    process = compiling._child.process
    assert compiling.take() is None
    compiling.close()
    assert process.returncode
    assert told == []


@pytest.mark.parametrize("length", [{"iterations": 100}, {"iterations": 10**6, "seconds": 600.0}])
def test_a_short_training_is_not_compiled_for(build, monkeypatch, length):
    told = []
    steps = Steps(monkeypatch, channels_last=1.0, plain=2.0, compiled=0.1)
    monkeypatch.setattr(execution_choice, "has_fused_normalization", lambda: False)
    taken = choose_execution(build, make_batch(), announce=told.append, compiler=COMPILER, **length)
    assert taken.compiler is None
    assert steps.count == 2 * (execution_choice.WARMING_STEPS + execution_choice.MEASURED_STEPS)
    assert "not compiled, which pays from 20 minutes of training on" in told[-1]


def test_volumes_have_an_order_of_their_own(build, monkeypatch):
    Steps(monkeypatch, channels_last=1.0, plain=2.0, compiled=9.0)
    taken = choose_execution(
        partial(build, dimensions=3), make_batch(3), iterations=1, announce=lambda text: None, compiler=COMPILER
    )
    assert taken.memory_format == torch.channels_last_3d


@pytest.fixture
def fusing(monkeypatch):
    """Sets whether the fused normalization works on a GPU."""

    def let(problem):
        monkeypatch.setattr(training_execution, "find_fusing_problem", lambda device, dtype: problem)

    let(None)
    return let


FUSED = TrainingExecution(memory_format=torch.channels_last, is_norm_fused=True)


@pytest.mark.parametrize(
    ("device", "dtype", "problem", "is_fused"),
    [
        ("cpu", "bfloat16", None, False),
        ("cuda", "bfloat16", None, True),
        ("cuda", "float32", None, False),
        ("cuda", "bfloat16", "Triton is not installed", False),  # PyTorch's own is slower than channels first
    ],
)
def test_without_measuring_channels_are_last_where_normalization_is_made_for_it(
    plan_configuration, fusing, device, *, dtype, problem, is_fused
):
    fusing(problem)
    usual = find_execution(plan_configuration(dimensions=3), torch.device(device), dtype)
    assert usual.is_norm_fused == is_fused
    assert usual.memory_format == (torch.channels_last_3d if is_fused else PLAIN)


@pytest.mark.usefixtures("fusing")
def test_a_network_without_instance_normalization_has_no_use_for_channels_last(plan_configuration, monkeypatch):
    monkeypatch.setattr(training_execution, "build_network", lambda plan: torch.nn.Conv2d(1, 1, 3))
    assert find_execution(plan_configuration(), torch.device("cuda"), "bfloat16").memory_format == PLAIN


@pytest.mark.parametrize(
    ("difference", "problem"),
    [
        (lambda: 0.006, None),
        (lambda: 0.1, "its values differ by 0.1 from PyTorch's"),
        (lambda: math.nan, "its values differ by nan from PyTorch's"),
        (partial(fail, TritonError("no such register\nand more")), "it failed (TritonError: no such register)"),
        (partial(fail, FileNotFoundError("Python.h")), "it failed (FileNotFoundError: Python.h)"),
    ],
)
def test_the_fused_normalization_is_tried_before_it_is_the_usual_way(monkeypatch, difference, problem):
    install_triton(monkeypatch)
    from autoseg.networks import fused_normalization

    monkeypatch.setattr(fused_normalization, "measure_difference", lambda device, dtype: difference())
    find_fusing_problem.cache_clear()
    assert find_fusing_problem(torch.device("cuda"), "bfloat16") == problem
    find_fusing_problem.cache_clear()
    monkeypatch.setattr(training_execution, "has_fused_normalization", lambda: False)
    assert find_fusing_problem(torch.device("cuda"), "bfloat16") == "Triton is not installed"
    find_fusing_problem.cache_clear()


@pytest.fixture
def decide(build, plan_configuration):
    """Decides for the tiny configuration; tells what was announced."""

    def make(device, *, end_epoch=4, device_dtype="bfloat16", **options):
        told = []
        execution = decide_execution(
            build,
            lambda key: make_batch(),
            plan=plan_configuration(),
            schedule=Schedule(iterations_per_epoch=250, validation_iterations_per_epoch=1, end_epoch=end_epoch),
            options=TrainingOptions(
                device=torch.device(device), seed=0, workers=0, announce=told.append, **options, dtype=device_dtype
            ),
        )
        return execution, told

    return make


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_than_gpus_measure_nothing(decide, device):
    assert decide(device) == (TrainingExecution(memory_format=PLAIN), [])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"deterministic": True}, "repeat themselves"),
        ({"process_group": ProcessGroup(rank=0, size=2)}, "several devices"),
    ],
)
@pytest.mark.usefixtures("fusing")
def test_where_measuring_would_get_in_the_way_the_usual_way_is_taken_and_announced(
    decide, options, reason, monkeypatch
):
    shared = []
    monkeypatch.setattr(ProcessGroup, "share", lambda group, part: shared.append(part) or part)
    execution, told = decide("cuda", **options)
    assert execution == FUSED
    assert shared == [StoredExecution.store(FUSED)]  # processes that disagree could not train together
    assert len(told) == 1
    assert re.search(f"channels last, fused normalization, not compiled and not measured: .*{reason}", told[0])


def test_a_network_that_was_compiled_before_is_compiled_for_a_shorter_training(decide, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Steps(monkeypatch, channels_last=2.0, plain=1.0, compiled=0.5)
    monkeypatch.setattr(decision, "COMPILER", COMPILER)
    assert "pays from 20 minutes" in decide("cuda")[1][-1]
    execution, told = decide("cuda", end_epoch=400)
    assert execution.compiler is not None
    assert told[-1].endswith("taken: channels first, compiled")
    assert decide("cuda")[0] == execution
    minute = Budget(seconds=60.0, reserved_seconds=0.0, start=0.0, clock=lambda: 0.0)
    assert "pays from 2 minutes" in decide("cuda", budget=minute)[1][-1]
    other = decide("cuda", device_dtype="float16")[1]
    assert "pays from 20 minutes" in other[-1]


def test_compiled_code_is_kept_in_the_user_s_cache_folder_unless_another_is_named(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    prepare_compiler()
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "autoseg" / "compiled_code")
    monkeypatch.setenv(CACHE_VARIABLE, "elsewhere")
    prepare_compiler()
    assert os.environ[CACHE_VARIABLE] == "elsewhere"
    monkeypatch.delenv(CACHE_VARIABLE)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    prepare_compiler()
    assert CACHE_VARIABLE not in os.environ
    assert "compiled code is not kept for the next training" in caplog.text


def test_a_gpu_is_measured_with_what_is_left_to_train(decide, monkeypatch):
    Steps(monkeypatch, channels_last=2.0, plain=1.0, compiled=9.0)
    monkeypatch.setattr(decision, "COMPILER", COMPILER)
    execution, told = decide("cuda")
    assert execution == TrainingExecution(memory_format=PLAIN)
    assert "pays from 20 minutes" in told[-1]  # 1000 steps of a second
    budget = Budget(seconds=1100.0, reserved_seconds=0.0, start=0.0, clock=lambda: 0.0)
    assert "pays from 20 minutes" in decide("cuda", end_epoch=400, budget=budget)[1][-1]
    assert "compiling the network" in decide("cuda", end_epoch=400)[1][0]
