"""The disagreement of the samples that a network averages itself, which label maps do not show."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_plan
from builders.progress import Notes
from builders.threads import use_one_thread
from torch import nn

from autoseg.errors import PredictionError
from autoseg.inference.ensemble import Ensemble
from autoseg.inference.execution.preparation import ReducedNetwork
from autoseg.inference.model import SegmentationModel
from autoseg.inference.view_disagreement import compute_normalizer, compute_uncertainty, record_normalizers
from autoseg.networks import build_network
from autoseg.networks.families.diffusion_unet import DiffusionUNet
from autoseg.run_folder import RunFolder
from autoseg.runtime.captured_network import CapturedNetwork
from autoseg.runtime.cuda_graphs import CudaGraphs
from autoseg.workflows.predict import prediction
from autoseg.workflows.predict.found_images import ImageFiles
from autoseg.workflows.predict.prediction import PredictionRequest
from autoseg.workflows.predict.uncertainty_maps import build_uncertainty_recorder
from autoseg.workflows.select.model_choice import ModelChoice

CPU = torch.device("cpu")
REGIONS = build_labels({"whole": (1, 2, 3), "core": (2, 3), "centre": (3,)}, region_write_values=(1, 2, 3))
IMAGE = np.random.default_rng(1).normal(size=(2, 1, 8, 8)).astype(np.float32)  # two channels, a single window

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def build_model(samples: int, labels=None) -> SegmentationModel:
    """One fold, no mirrored views, weights that are not those that a network begins with."""
    plan = build_small_network_plan("diffusion_unet", 2, samples=samples)
    generator = torch.Generator().manual_seed(0)
    network = build_network(plan, generator).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    part = build_configuration((8, 8), data_of="2d").model_copy(update={"network": plan})
    whole = build_plan({"2d": build_configuration((8, 8), data_of="2d")})
    whole = whole.model_copy(update={"configurations": {"2d": part}} | ({} if labels is None else {"labels": labels}))
    return SegmentationModel(plan=whole, configuration="2d", folds=("0",), networks=(network,), device=CPU)


def predict(model: SegmentationModel) -> torch.Tensor:
    return model.predict_preprocessed(IMAGE)


@pytest.mark.parametrize("labels", [None, REGIONS], ids=["labels", "regions"])
def test_samples_of_one_window_disagree_by_the_affinity_of_their_probabilities(labels):
    model = build_model(2, labels)
    (network,) = model.networks
    assert isinstance(network, DiffusionUNet)
    recorded = predict(record_normalizers(model))
    assert torch.equal(recorded[:-1], predict(model)), "logits are those of a plain prediction, bit for bit"
    image = torch.from_numpy(IMAGE)[:, 0][None]
    with torch.inference_mode():
        samples = torch.stack([network._sample(image, network._draw(image, index))[0] for index in range(2)])
    assert not torch.equal(*samples)
    if labels is None:
        affinity = samples.softmax(1).log().mean(0).exp().sum(0)
    else:
        inside, outside = samples.sigmoid(), (-samples).sigmoid()
        affinity = (inside.log().mean(0).exp() + outside.log().mean(0).exp()).prod(0)
    disagreement = compute_uncertainty(recorded, model.plan.labels)[1, 0].float()
    assert disagreement.max() > 0
    torch.testing.assert_close(disagreement, 1 - affinity, rtol=0, atol=2e-3)


def test_a_single_sample_disagrees_with_nothing():
    model = build_model(1)
    recorded = predict(record_normalizers(model))
    own = compute_normalizer(recorded[:-1], has_regions=False, axis=0)[0]
    torch.testing.assert_close(own, recorded[-1], rtol=0, atol=1e-5)


def test_samples_are_told_apart_in_networks_that_were_prepared_to_be_fast():
    model = build_model(2)
    plain = predict(record_normalizers(model))
    (network,) = model.networks
    reduced = ReducedNetwork(network, "float32", torch.contiguous_format)
    captured = CapturedNetwork(reduced, CudaGraphs(device=CPU), inference_batch_size=1)
    for prepared in (reduced, captured):
        assert torch.equal(predict(record_normalizers(replace(model, networks=(prepared,)))), plain)
    assert reduced.network is network
    assert torch.equal(predict(model), plain[:-1]), "the given networks stay as they are"


def test_compiled_networks_are_refused_by_the_option_that_compiled_them():
    model = replace(build_model(2), networks=(nn.Identity(),), execution="openvino")
    with pytest.raises(
        PredictionError, match=r"of the 2 samples of 2d .*compiled here \(openvino\); use --execution eager"
    ):
        record_normalizers(model)


@pytest.mark.parametrize(
    ("samples", "execution", "taken"), [(2, "auto", "eager"), (2, "openvino", "openvino"), (1, "auto", "auto")]
)
def test_samples_are_not_compiled_unless_asked_for(tmp_path, monkeypatch, *, samples, execution, taken):
    plan = build_model(samples).plan
    monkeypatch.setattr(prediction, "read_document", lambda *_: plan)

    def load(*_, execution, **__):
        raise NotImplementedError(execution)

    request = PredictionRequest(uncertainty=True, execution=execution)
    choice = ModelChoice(members=(), rules=(), selection=None)
    found = ImageFiles(cases=(), problems=(), ending=".mha", source="", channel_count=1)
    with pytest.raises(NotImplementedError, match=f"^{taken}$"):
        prediction._choose_way(RunFolder(tmp_path), choice, found, request=request, load=load, progress=Notes())


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, ("overlapping windows",)), (2, ("samples", "overlapping windows"))]
)
def test_samples_are_named_among_what_maps_of_disagreement_compare(samples, expected, tmp_path):
    models, said = Ensemble(members=(build_model(samples),)), []
    recorder = build_uncertainty_recorder(models, tmp_path, mirroring=False, announce=said.append)
    assert recorder.compared == expected
    assert len(recorder.find_paths("case")) == len(expected)
    assert bool(said) is (samples == 1)
