from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.graphs import TapeGraphs
from builders.plans import build_configuration, build_plan

from autoseg.inference import held_out, model
from autoseg.inference.execution import choice
from autoseg.inference.held_out import find_held_out_execution, load_held_out_model
from autoseg.inference.options import ONE_IMAGE, PredictionOptions, Workload
from autoseg.run_folder import RunFolder

NAME = "3d_fullres"
PLAIN = PredictionOptions(mirroring=False)


@pytest.fixture
def run(tmp_path):
    plan = build_plan({NAME: build_configuration((8, 8, 8), mirror_axes=(0, 2))})
    write_trained_fold(tmp_path, plan, NAME, fold="0")
    return RunFolder(tmp_path)


@pytest.fixture
def load(run):
    def load(**changes):
        trained = load_held_out_model(
            run, configuration=NAME, fold="0", device="cpu", **{"images": 9, "options": PLAIN, **changes}
        )
        return replace(trained, inference_batch_size=2)

    return load


@pytest.fixture
def graphs(monkeypatch):
    """Takes the place of CUDA graphs; the CPU passes for a GPU that has them."""
    graphs = TapeGraphs()
    monkeypatch.setattr(held_out, "MEASURED_DEVICES", {"cpu"})
    monkeypatch.setattr(choice, "build_graphs", lambda device: graphs)
    monkeypatch.setattr(choice, "list_available", lambda setting: {"captured": "1"})
    monkeypatch.setattr(choice, "CAPTURING_PAYS_PASSES", 30)
    monkeypatch.setattr(model, "find_dtype", lambda device, precision: "float32")
    return graphs


def predict(trained):
    image = np.random.default_rng(0).normal(size=(1, 12, 14, 13)).astype(np.float32)
    return trained.predict_preprocessed(image, options=PLAIN)


def test_a_gpu_runs_them_as_new_images_unless_results_are_to_repeat_themselves(monkeypatch):
    cpu, gpu, other = (torch.device(name) for name in ("cpu", "cuda", "mps"))
    assert [find_held_out_execution(device) for device in (cpu, gpu, other)] == ["eager", "auto", "eager"]
    assert find_held_out_execution(cpu, "auto") == "auto"
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert find_held_out_execution(gpu) == "eager"


def test_the_passes_of_all_cases_count_on_a_gpu_alone(load, monkeypatch):
    asked = []
    usual = held_out.load_model

    def watch(*arguments, **named):
        asked.append((named["execution"], named["workload"]))
        return usual(*arguments, **named)

    monkeypatch.setattr(held_out, "load_model", watch)
    load()
    load(elsewhere="auto")
    monkeypatch.setattr(held_out, "MEASURED_DEVICES", {"cpu"})
    load()
    assert asked == [("eager", ONE_IMAGE), ("auto", ONE_IMAGE), ("auto", Workload(images=9, options=PLAIN))]


def test_their_passes_are_captured_where_there_are_enough_and_give_the_same_logits(load, graphs):
    captured, few = load(images=90), load(images=9)
    assert (captured.execution, few.execution) == ("captured", "eager")
    assert graphs.calls.count("capture") == 1
    assert torch.equal(predict(captured), predict(few))
    assert graphs.calls.count("replay") > 2


def test_passes_that_cannot_be_captured_run_as_they_are_and_the_log_says_why(load, graphs, caplog):
    graphs.failure = RuntimeError("no memory for it")
    assert load(images=90).execution == "eager"
    assert "captured does not work here and is not used: capturing one failed" in caplog.text
