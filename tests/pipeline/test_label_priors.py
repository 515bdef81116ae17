"""Latent diffusion from the plan to predictions: its label autoencoder is trained first, once for every fold."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders.balls import write_balls
from builders.command_line import run_autoseg

import autoseg
from autoseg.cli.choices import find_planner
from autoseg.errors import ExchangeError
from autoseg.networks import read_weights
from autoseg.networks.weights import read_label_autoencoder
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.workflows.exchange.request import ExportRequest
from autoseg.workflows.predict.prediction import PredictionRequest
from autoseg.workflows.train.request import TrainingRequest

OPTIONS = {"plain": (), "beside": ("--plausibility",)}


def shorten(run: Path) -> None:
    path = run / "plan.json"
    plan = json.loads(path.read_text())
    chosen = plan["configurations"]["2d"]
    chosen["training"] |= {
        "epochs": 1,
        "iterations_per_epoch": 2,
        "validation_iterations_per_epoch": 1,
        "batch_size": 2,
    }
    for part in (chosen["training"]["objective"], chosen["training"]["plausibility"] or {}):
        if "autoencoder" in part or part.get("name") == "latent_diffusion":
            part["autoencoder_iterations"] = 2
    path.write_text(json.dumps(plan))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    dataset = write_balls(folder / "Dataset001_Balls", cases=3)
    run = folder / "balls.autoseg"
    planner = find_planner("default", "latent_diffusion")
    autoseg.plan_dataset(dataset, run, planner=planner, configurations=["2d"], workers=1)
    shorten(run)
    autoseg.train_run(run, TrainingRequest(configuration="2d", folds=("0",), workers=0, device="cpu"))
    return run


def test_the_network_holds_the_autoencoder_of_its_fold_unchanged(run: Path) -> None:
    fold = RunFolder(run).fold("2d", "0")
    trained = read_weights(fold.root / "label_autoencoder" / "checkpoint_final.safetensors")
    network = read_weights(fold.final_checkpoint)
    assert trained
    assert all(torch.equal(value, network[f"autoencoder.{name}"]) for name, value in trained.items())
    record = json.loads((fold.root / "label_autoencoder" / "training_log.jsonl").read_text().splitlines()[-1])
    assert 0 <= record["mean_pseudo_dice"] <= 1


def test_predictions_and_held_out_cases_get_a_plausibility(run: Path, tmp_path: Path) -> None:
    stored = [
        json.loads(path.read_text())["features"]
        for path in RunFolder(run).fold("2d", "0").validation.glob("*.features.json")
    ]
    image = run.parent / "Dataset001_Balls" / "imagesTr" / "case0_0000.nii.gz"
    autoseg.predict_images(run, image, tmp_path / "out", PredictionRequest(device="cpu", execution="eager"))
    (found,) = json.loads((tmp_path / "out" / "quality.json").read_text())["cases"]
    for entry in (found, *stored):
        assert 0 <= entry["plausibility"] <= 1


def test_the_export_to_nnunet_refuses_the_family_by_name(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="nnU-Net has no network of the family 'latent_diffusion'"):
        autoseg.export_model(run, tmp_path / "out")


def train_first_fold(dataset: Path, run: Path, *options: str) -> FoldFolder:
    planned = run_autoseg("plan", dataset, "--run", run, "--configuration", "2d", "--workers", 1, *options)
    assert planned.code == 0, planned.err
    shorten(run)
    autoseg.train_run(run, TrainingRequest(configuration="2d", folds=("0",), workers=0, device="cpu"))
    return RunFolder(run).fold("2d", "0")


@pytest.mark.parametrize("option", [("--loss", "shape_prior"), ("--plausibility",)])
def test_the_checkpoint_and_the_model_file_hold_the_autoencoder_beside_a_network(tmp_path: Path, option) -> None:
    dataset = write_balls(tmp_path / "Dataset001_Balls", cases=3)
    run, unpacked = tmp_path / "balls.autoseg", tmp_path / "unpacked"
    fold = train_first_fold(dataset, run, *option)
    trained = read_weights(fold.root / "label_autoencoder" / "checkpoint_final.safetensors")
    kept = read_label_autoencoder(fold.final_checkpoint)
    assert trained.keys() == kept.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in trained.items())
    (stored,) = fold.validation.glob("*.features.json")
    assert 0 <= json.loads(stored.read_text())["features"]["plausibility"] <= 1
    shutil.rmtree(fold.root / "label_autoencoder")
    autoseg.export_model(run, tmp_path / "model.zip", ExportRequest(format="autoseg"))
    autoseg.import_model(tmp_path / "model.zip", unpacked)
    image, found = dataset / "imagesTr" / "case0_0000.nii.gz", []
    for model in (run, unpacked):
        out = tmp_path / f"{model.name}_out"
        autoseg.predict_images(model, image, out, PredictionRequest(device="cpu", execution="eager"))
        found.append(json.loads((out / "quality.json").read_text())["cases"][0]["plausibility"])
    assert found[0] == found[1]
    assert 0 <= found[0] <= 1


def test_a_plain_network_is_the_same_with_and_without_the_plausibility_of_its_predictions(tmp_path: Path) -> None:
    dataset = write_balls(tmp_path / "Dataset001_Balls", cases=3)
    plain, beside = (train_first_fold(dataset, tmp_path / name, *option) for name, option in OPTIONS.items())
    networks = [read_weights(fold.final_checkpoint) for fold in (plain, beside)]
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())
    label_maps = [next(fold.validation.glob("*.nii.gz")).read_bytes() for fold in (plain, beside)]
    assert label_maps[0] == label_maps[1]
    assert "plausibility" not in next(plain.validation.glob("*.features.json")).read_text()
    refused = run_autoseg("plan", dataset, "--run", tmp_path / "plain", "--plausibility", "--workers", 1)
    assert (refused.code, "planned with the planner 'default'" in refused.err) == (1, True)
