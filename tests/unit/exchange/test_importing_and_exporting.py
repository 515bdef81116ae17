"""Whole models: importing, predicting with them, exporting."""

import json
import resource
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from builders.labels import build_labels
from builders.nnunet_models import (
    build_foreign_configuration,
    build_foreign_dataset,
    build_foreign_network,
    build_foreign_plans,
    write_foreign_model,
)
from builders.plans import build_transforms
from builders.progress import Notes
from builders.selections import build_prediction_choice, build_selection
from builders.volumes import save_nifti

from autoseg.cli.export import export
from autoseg.cli.import_model import import_model as import_command
from autoseg.cli.predict import predict
from autoseg.document import read_document, write_document
from autoseg.errors import ExchangeError, PredictionError, RunError
from autoseg.exchange.imported_run import ImportRecord, convert_weights
from autoseg.files import temporary_files
from autoseg.fingerprint import ChannelFingerprint, Fingerprint, ForegroundIntensities
from autoseg.geometry import Grid
from autoseg.inference.folds import find_folds, find_trained_folds
from autoseg.inference.model import load_model
from autoseg.networks import read_weights
from autoseg.plan import IntensityWindow, Plan
from autoseg.postprocessing.rules import FillHoles
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.workflows.exchange import exporting, importing
from autoseg.workflows.exchange.exporting import export_model
from autoseg.workflows.exchange.importing import import_model
from autoseg.workflows.exchange.request import ExportRequest, ImportRequest
from autoseg.workflows.folds.status import read_run_status
from autoseg.workflows.plan.planning import preprocess_run
from autoseg.workflows.predict.model_source import find_kind, open_model
from autoseg.workflows.select.selection_document import Member
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.units import list_units

TELLER = SilentProgress()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_foreign_model(tmp_path / "results", folds=("0", "1", "all"))


def read_plan(run: Path) -> Plan:
    return read_document(RunFolder(run).plan, Plan)


def test_an_imported_model_is_a_run_of_plan_weights_and_origin(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    (model,) = import_model(source, run, progress=TELLER)
    assert (model.configuration, model.folds) == ("3d_fullres", ("0", "1", "all"))
    files = sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())
    assert files == [
        *(
            f"models/3d_fullres/fold_{fold}/{name}"
            for fold in ("0", "1", "all")
            for name in ("checkpoint_final.safetensors", "import.json", "plan.json")
        ),
        "plan.json",
    ]
    record = read_document(RunFolder(run).fold("3d_fullres", "1").import_record, ImportRecord)
    assert record.source == str(source / "fold_1" / "checkpoint_final.pth")
    assert (record.trainer, record.epochs, len(record.source_sha256)) == ("nnUNetTrainer", 1000, 64)


def test_the_run_predicts_what_the_network_there_decides(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    model = load_model(run, device="cpu")
    assert model.folds == ("0", "1")
    image = np.random.default_rng(0).normal(100, 20, (1, 8, 16, 16)).astype(np.float32)
    upside_down = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    grid = Grid(shape_voxels=(8, 16, 16), spacing_mm=(2.5, 1.0, 1.25), direction=upside_down)
    found = model.predict_volume(image, grid)
    inputs = torch.from_numpy((image - image.mean()) / image.std())[None]
    networks = [
        build_foreign_network(build_foreign_plans(), build_foreign_dataset(), "3d_fullres", seed=seed)
        for seed in (0, 1)
    ]
    with torch.inference_mode():
        views = [
            network(inputs.flip(axes)).flip(axes)
            for network in networks
            for axes in ((), (2,), (3,), (2, 3))  # the checkpoint allows the first two axes of a patch
        ]
    expected = torch.stack(views).mean(0)[0].argmax(0).numpy()
    assert len(np.unique(expected)) == 3
    assert (found == expected).mean() > 0.999


def test_repeating_the_import_keeps_what_is_there(source: Path, tmp_path: Path) -> None:
    run, notes = tmp_path / "x.autoseg", Notes()
    import_model(source, run, progress=TELLER)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("checkpoint_*")}
    import_model(source, run, progress=notes)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("checkpoint_*")} == before
    assert len([note for note in notes.lines if "imported before, kept" in note]) == 3


def test_another_model_of_the_same_fold_needs_permission(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    other = write_foreign_model(tmp_path / "others", folds=("1", "0"))
    with pytest.raises(ExchangeError, match="holds another model already"):
        import_model(other, run, progress=TELLER)
    import_model(other, run, ImportRequest(overwrite=True), progress=TELLER)
    swapped = read_weights(RunFolder(run).fold("3d_fullres", "0").final_checkpoint)
    import_model(source, tmp_path / "again.autoseg", progress=TELLER)
    first = read_weights(RunFolder(tmp_path / "again.autoseg").fold("3d_fullres", "1").final_checkpoint)
    assert all(torch.equal(swapped[name], first[name]) for name in first)


def test_a_model_by_other_plans_needs_permission_and_then_replaces_all_folds(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    plans = build_foreign_plans({"3d_fullres": build_foreign_configuration(spacing=[3.0, 1.0, 1.0])})
    other = write_foreign_model(tmp_path / "others", plans=plans)
    with pytest.raises(ExchangeError, match="followed another plan"):
        import_model(other, run, progress=TELLER)
    import_model(other, run, ImportRequest(overwrite=True), progress=TELLER)
    assert load_model(run, device="cpu").folds == ("0",)
    assert read_plan(run).configurations["3d_fullres"].spacing_mm == (3.0, 1.0, 1.0)


def test_models_of_several_configurations_share_a_run(tmp_path: Path) -> None:
    plans = build_foreign_plans({"2d": build_foreign_configuration(2), "3d_fullres": build_foreign_configuration()})
    results = tmp_path / "results" / "Dataset001_X"
    write_foreign_model(results, plans=plans, configuration="2d", mirror_axes=(0,))
    write_foreign_model(results, plans=plans, configuration="3d_fullres")
    models = import_model(results.parent, tmp_path / "x.autoseg", progress=TELLER)
    assert [model.configuration for model in models] == ["2d", "3d_fullres"]
    plan = read_plan(tmp_path / "x.autoseg")
    assert set(plan.configurations) == {"2d", "3d_fullres"}
    assert {reason.subject.partition(":")[0] for reason in plan.reasons} == {"2d", "3d_fullres"}
    flat = load_model(tmp_path / "x.autoseg", configuration="2d", device="cpu")
    assert flat.configuration_plan.training.mirror_axes == (0,)
    only = import_model(results, tmp_path / "y.autoseg", ImportRequest(configuration="2d"), progress=TELLER)
    assert [model.configuration for model in only] == ["2d"]


def test_two_models_for_one_configuration_must_be_told_apart(tmp_path: Path) -> None:
    write_foreign_model(tmp_path / "results")
    write_foreign_model(tmp_path / "results", trainer="nnUNetTrainerDA5")
    with pytest.raises(ExchangeError, match=r"one model for each configuration, found: .*DA5.*name one"):
        import_model(tmp_path / "results", tmp_path / "x.autoseg", progress=TELLER)


def test_a_cascade_brings_its_first_stage_from_beside_it(tmp_path: Path) -> None:
    configurations = {
        "3d_lowres": build_foreign_configuration(),
        "3d_fullres": build_foreign_configuration(),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    plans = build_foreign_plans(configurations)
    cascade = write_foreign_model(tmp_path / "both", plans=plans, configuration="3d_cascade_fullres")
    alone = write_foreign_model(tmp_path / "alone", plans=plans, configuration="3d_cascade_fullres")
    low = write_foreign_model(tmp_path / "both", plans=plans, configuration="3d_lowres", mirror_axes=(2,))
    models = import_model(cascade, tmp_path / "x.autoseg", progress=TELLER)
    assert [model.configuration for model in models] == ["3d_lowres", "3d_cascade_fullres"]
    run = RunFolder(tmp_path / "x.autoseg")
    assert run.fold("3d_lowres", "0").final_checkpoint.exists()
    lowres = read_document(run.plan, Plan).configurations["3d_lowres"]
    assert lowres.training.mirror_axes == (2,)
    with open_model(cascade) as opened:  # not the first stage alone, which prediction would prefer
        assert opened.configuration == "3d_cascade_fullres"
    notes = Notes()
    import_model(alone, tmp_path / "y.autoseg", progress=notes)
    assert any("refines the predictions of 3d_lowres" in note for note in notes.lines)
    import_model(low, tmp_path / "y.autoseg", progress=TELLER)
    assert read_plan(tmp_path / "y.autoseg").configurations == read_document(run.plan, Plan).configurations


def test_a_fold_of_a_cascade_that_is_replaced_leaves_further_folds_of_its_first_stage(tmp_path: Path) -> None:
    configurations = {
        "3d_lowres": build_foreign_configuration(),
        "3d_fullres": build_foreign_configuration(),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    plans, run = build_foreign_plans(configurations), tmp_path / "x.autoseg"
    wide = write_foreign_model(tmp_path / "wide", plans=plans, configuration="3d_lowres", folds=("0", "1"))
    import_model(wide, run, progress=TELLER)
    cascade = write_foreign_model(tmp_path / "both", plans=plans, configuration="3d_cascade_fullres", folds=("0",))
    write_foreign_model(tmp_path / "both", plans=plans, configuration="3d_lowres", folds=("0",))
    import_model(cascade, run, ImportRequest(overwrite=True, folds=("0",)), progress=TELLER)
    assert find_trained_folds(RunFolder(run), "3d_lowres") == ("0", "1")
    import_model(cascade, run, ImportRequest(overwrite=True), progress=TELLER)  # the whole model
    assert find_trained_folds(RunFolder(run), "3d_lowres") == ("0",)


def test_the_best_checkpoint_can_be_taken(tmp_path: Path) -> None:
    source = write_foreign_model(tmp_path / "results", kind="best")
    with pytest.raises(
        ExchangeError, match=r"no checkpoint_final\.pth .*fold_0/checkpoint_best\.pth.*--checkpoint best"
    ):
        import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    import_model(source, tmp_path / "x.autoseg", ImportRequest(checkpoint="best"), progress=TELLER)
    assert load_model(tmp_path / "x.autoseg", device="cpu").folds == ("0",)


def test_folds_that_have_not_ended_are_left_out_with_a_warning(source: Path, tmp_path: Path) -> None:
    (source / "fold_1" / "checkpoint_final.pth").rename(source / "fold_1" / "checkpoint_latest.pth")
    notes = Notes()
    (model,) = import_model(source, tmp_path / "x.autoseg", progress=notes)
    assert model.folds == ("0", "all")
    assert f"warning: {source}: fold_1 left out, without checkpoint_final.pth" in notes.lines


def test_single_folds_can_be_taken_and_missing_ones_are_named(source: Path, tmp_path: Path) -> None:
    (model,) = import_model(source, tmp_path / "x.autoseg", ImportRequest(folds=("1",)), progress=TELLER)
    assert model.folds == ("1",)
    with pytest.raises(ExchangeError, match=r"no checkpoint of fold 4; it has folds: 0, 1, all"):
        import_model(source, tmp_path / "x.autoseg", ImportRequest(folds=("4",)), progress=TELLER)


def test_a_renamed_model_folder_is_known_by_its_checkpoints(source: Path, tmp_path: Path) -> None:
    renamed = source.rename(tmp_path / "liver model")
    (model,) = import_model(renamed, tmp_path / "x.autoseg", progress=TELLER)
    assert model.configuration == "3d_fullres"
    with pytest.raises(ExchangeError, match="a model for 3d_fullres, not for 2d"):
        import_model(renamed, tmp_path / "y.autoseg", ImportRequest(configuration="2d"), progress=TELLER)


def test_an_exported_zip_is_imported(source: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for path in source.rglob("*"):
            content.write(path, Path("Dataset001_X") / path.relative_to(source.parent))
    (model,) = import_model(archive, tmp_path / "x.autoseg", progress=TELLER)
    import_model(source, tmp_path / "y.autoseg", progress=TELLER)
    assert model.folds == ("0", "1", "all")
    first, second = (
        read_weights(RunFolder(tmp_path / name).fold("3d_fullres", "all").final_checkpoint)
        for name in ("x.autoseg", "y.autoseg")
    )
    assert all(torch.equal(first[name], second[name]) for name in second)
    record = read_document(RunFolder(tmp_path / "x.autoseg").fold("3d_fullres", "0").import_record, ImportRecord)
    assert record.source == str(archive / "Dataset001_X" / source.name / "fold_0" / "checkpoint_final.pth")


@pytest.mark.parametrize("kind", ["empty", "zip"])
def test_what_holds_no_model_is_refused(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if kind == "zip":
        place = tmp_path / "place.zip"
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("readme.txt", "nothing")
    with pytest.raises(ExchangeError, match="holds no model of nnU-Net v2"):
        import_model(place, tmp_path / "x.autoseg", progress=TELLER)
    assert not (tmp_path / "x.autoseg").exists()


def test_runs_of_other_origin_and_other_files_are_left_alone(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    write_document(RunFolder(run).plan, read_plan(run).model_copy(update={"planner": "default"}))
    with pytest.raises(ExchangeError, match="a run of autoseg's planner 'default'"):
        import_model(source, run, progress=TELLER)
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "notes.txt").touch()
    with pytest.raises(ExchangeError, match="holds other files"):
        import_model(source, tmp_path / "busy", progress=TELLER)


def test_models_of_another_dataset_need_a_run_of_their_own(source: Path, tmp_path: Path) -> None:
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    dataset = build_foreign_dataset(labels={"background": 0, "heart": 1, "lung": 2})
    other = write_foreign_model(tmp_path / "others", dataset=dataset)
    with pytest.raises(ExchangeError, match="differ in labels"):
        import_model(other, tmp_path / "x.autoseg", progress=TELLER)


def test_folds_that_disagree_are_refused(source: Path, tmp_path: Path) -> None:
    path = source / "fold_1" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | {"inference_allowed_mirroring_axes": None}, path)
    with pytest.raises(ExchangeError, match=r"folds of a model must agree.*mirror_axes \(\).*\(0, 1\)"):
        import_model(source, tmp_path / "x.autoseg", progress=TELLER)


def test_weights_of_another_network_are_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    path = source / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"]["gate.weight"] = torch.ones(1)
    torch.save(content, path)
    with pytest.raises(ExchangeError, match=r"not expected gate\.weight"):
        import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    assert not (tmp_path / "x.autoseg").exists()


def test_a_configuration_whose_name_leads_out_of_the_run_is_refused(source: Path, tmp_path: Path) -> None:
    plans = json.loads((source / "plans.json").read_text())
    plans["configurations"] = {"../../out": plans["configurations"]["3d_fullres"]}
    (source / "plans.json").write_text(json.dumps(plans))
    for path in source.rglob("*.pth"):
        content = torch.load(path, weights_only=False)
        content["init_args"] |= {"configuration": "../../out", "plans": plans}
        torch.save(content, path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ExchangeError, match=r"cannot express: data_of: must be able to name a folder, but it holds '/'"
    ):
        import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_trainer_needs_the_users_word(tmp_path: Path) -> None:
    source = write_foreign_model(tmp_path / "results", trainer="nnUNetTrainerOfMine")
    with pytest.raises(ExchangeError, match="nnUNetTrainerOfMine"):
        import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    request = ImportRequest(accepts_any_trainer=True)
    assert len(import_model(source, tmp_path / "x.autoseg", request, progress=TELLER)) == 1


def test_a_model_folder_is_opened_as_a_run_for_as_long_as_it_is_needed(source: Path) -> None:
    notes = Notes()
    assert find_kind(source) == "nnunet"
    with open_model(source, folds=("1",), progress=notes) as model:
        assert load_model(model.run, device="cpu").folds == ("1",)
    assert model.configuration == "3d_fullres"
    assert not model.run.exists()
    assert "autoseg import" in notes.lines[0]


def test_a_run_is_opened_as_itself(source: Path, tmp_path: Path) -> None:
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    with open_model(tmp_path / "x.autoseg", configuration="2d") as model:
        assert (model.run, model.configuration) == (tmp_path / "x.autoseg", "2d")


def test_what_is_neither_a_run_nor_a_model_is_named_before_anything_is_predicted(source: Path, tmp_path: Path) -> None:
    def refuse(path: Path, match: str) -> None:
        with pytest.raises(RunError, match=match), open_model(path):
            pass

    refuse(tmp_path / "nowhere", r"nowhere does not exist; .*check the path")
    (tmp_path / "empty").mkdir()
    refuse(
        tmp_path / "empty", r"neither a run \(it has no plan\.json\) nor .*no plans\.json, no dataset\.json, no fold_0"
    )
    refuse(source / "plans.json", r"plans\.json is a file; expected a run")
    refuse(source / "fold_0", rf"one fold of a model .*above it: {source}$")
    (source / "plans.json").unlink()
    refuse(source, r"neither a run .* nor a model folder of nnU-Net \(it has no plans\.json\)")


def test_a_part_of_a_model_or_nothing_at_all_is_not_imported(source: Path, tmp_path: Path) -> None:
    for path, match in (
        (tmp_path / "nowhere", "nowhere does not exist"),
        (source / "fold_0", rf"fold_0 is one fold of .*above it: {source}$"),
        (source / "fold_0" / "checkpoint_final.pth", rf"is one checkpoint of .*above it: {source}$"),
    ):
        with pytest.raises(ExchangeError, match=match):
            import_model(path, tmp_path / "x.autoseg", progress=TELLER)
    assert not (tmp_path / "x.autoseg").exists()


def test_the_commands_import_predict_and_export(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, run = tmp_path / "images", tmp_path / "x.autoseg"
    voxels = np.random.default_rng(0).normal(100, 20, (18, 17, 9)).astype(np.float32)
    save_nifti(images / "case_0000.nii.gz", voxels, np.diag([-1.25, 1.0, 2.5, 1.0]))
    import_command(source, run, fold=["0"])
    assert "imported 3d_fullres, fold 0" in capsys.readouterr().out
    import_command(source, run, fold=["0"])
    printed = capsys.readouterr().out
    assert "fold_0: imported before, kept" in printed
    assert "imported 3d_fullres" not in printed
    for model, out in ((run, "imported"), (source, "direct")):
        predict(model, images, tmp_path / out, fold=["0"], device="cpu")
    first, second = (nib.load(tmp_path / out / "case.nii.gz") for out in ("imported", "direct"))
    assert np.array_equal(np.asarray(first.dataobj), np.asarray(second.dataobj))
    assert set(np.unique(first.dataobj)) == {0, 1, 2}
    predict(source, images, tmp_path / "direct", fold=["0"], device="cpu")
    assert "0 label maps written, 1 finished earlier and kept" in capsys.readouterr().out
    export(run, format="nnunet", output=tmp_path / "exported")
    assert "nnUNetv2_predict_from_modelfolder -m" in capsys.readouterr().out
    export(run, format="nnunet", output=tmp_path / "exported")
    assert "exported before, unchanged" in capsys.readouterr().out


def select_decisions(plan: Plan) -> dict[str, object]:
    told = {"reasons", "planner", "autoseg_version", "accelerator_memory_gb"}
    return {name: value for name, value in plan if name not in told}


def export_and_import(run: Path, tmp_path: Path) -> Path:
    export_model(run, tmp_path / "exported", progress=TELLER)
    import_model(tmp_path / "exported", tmp_path / "again.autoseg", progress=TELLER)
    return tmp_path / "again.autoseg"


def test_exporting_and_importing_gives_the_same_decisions_and_weights(tmp_path: Path) -> None:
    plans = build_foreign_plans(
        {
            "2d": build_foreign_configuration(2),
            "3d_lowres": build_foreign_configuration(residual=True),
            "3d_fullres": build_foreign_configuration(),
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        transpose_forward=[1, 0, 2],
        image_reader_writer="NibabelIOWithReorient",
    )
    for name, axes in (("2d", (0,)), ("3d_lowres", (0, 1, 2)), ("3d_cascade_fullres", None)):
        write_foreign_model(tmp_path / "results", plans=plans, configuration=name, folds=("0", "all"), mirror_axes=axes)
    run = tmp_path / "x.autoseg"
    import_model(tmp_path / "results", run, progress=TELLER)
    again = export_and_import(run, tmp_path)
    assert select_decisions(read_plan(again)) == select_decisions(read_plan(run))
    for name in ("2d", "3d_lowres", "3d_cascade_fullres"):
        files = [RunFolder(root).fold(name, "0").final_checkpoint for root in (run, again)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_regions_windows_and_the_ignore_label_survive_the_export(tmp_path: Path) -> None:
    part = build_foreign_configuration(normalization_schemes=["CTNormalization"], use_mask_for_norm=[False])
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    source = write_foreign_model(
        tmp_path / "results",
        plans=build_foreign_plans({"3d_fullres": part}),
        dataset=build_foreign_dataset(labels=labels, regions_class_order=[1, 2]),
    )
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    again = read_plan(export_and_import(tmp_path / "x.autoseg", tmp_path))
    assert again.labels.has_regions
    assert again.labels.ignore_value == 3
    assert again.channels[0].window == IntensityWindow(lower=-30, upper=170, mean=60.5, std=20.25)
    assert select_decisions(again) == select_decisions(read_plan(tmp_path / "x.autoseg"))


def test_a_foreign_model_with_regions_in_a_wrong_order_is_imported_with_a_warning(tmp_path: Path) -> None:
    labels = {"background": 0, "core": 2, "whole": [1, 2]}
    source = write_foreign_model(
        tmp_path / "results",
        plans=build_foreign_plans(),
        dataset=build_foreign_dataset(labels=labels, regions_class_order=[2, 1]),
    )
    notes = Notes()
    import_model(source, tmp_path / "x.autoseg", progress=notes)
    assert read_plan(tmp_path / "x.autoseg").labels.has_regions
    assert "warning: " in notes.text
    assert "2 (core, whole) is written as 1 (whole)" in notes.text


def change_plan(run: Path, **changes: Any) -> None:
    """As if the run had been planned in another way."""
    plan = read_plan(run).model_copy(update=changes)
    for path in run.rglob("plan.json"):
        write_document(path, plan)


def test_labels_with_gaps_are_not_exported(source: Path, tmp_path: Path) -> None:
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    change_plan(tmp_path / "x.autoseg", labels=build_labels({"label 2": (2,), "label 5": (5,)}))
    with pytest.raises(ExchangeError, match="without gaps, but this model's are 0, 2, 5"):
        export_model(tmp_path / "x.autoseg", tmp_path / "exported", progress=TELLER)


def test_an_ignore_label_that_nnunet_cannot_name_is_left_out_with_a_warning(source: Path, tmp_path: Path) -> None:
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    change_plan(tmp_path / "x.autoseg", labels=build_labels({"label 1": (1,), "label 2": (2,)}, ignore_value=255))
    notes = Notes()
    (model,) = export_model(tmp_path / "x.autoseg", tmp_path / "exported", progress=notes)
    assert json.loads((model.folder / "dataset.json").read_text())["labels"] == {
        "background": 0, "label 1": 1, "label 2": 2,
    }  # fmt: skip
    assert any("ignore label 255 is left out" in note for note in notes.lines)


@pytest.mark.parametrize(("orientation", "reader", "warns"), [
    (None, "SimpleITKIO", False), ("RAS", "NibabelIOWithReorient", False), ("LPS", "SimpleITKIO", True),
])  # fmt: skip
def test_orientation_is_exported_where_nnunet_has_a_reader_for_it(
    orientation: str | None, reader: str, *, warns: bool, source: Path, tmp_path: Path
) -> None:
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    change_plan(tmp_path / "x.autoseg", orientation=orientation)
    notes = Notes()
    (model,) = export_model(tmp_path / "x.autoseg", tmp_path / "exported", progress=notes)
    assert json.loads((model.folder / "plans.json").read_text())["image_reader_writer"] == reader
    assert any("reorient images to LPS" in note for note in notes.lines) is warns


def test_formats_that_nnunet_does_not_read_are_refused(source: Path, tmp_path: Path) -> None:
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    change_plan(tmp_path / "x.autoseg", file_ending=".mgz")
    with pytest.raises(ExchangeError, match=r"does not read \.mgz files"):
        export_model(tmp_path / "x.autoseg", tmp_path / "exported", progress=TELLER)


def test_borders_that_nnunet_does_not_have_are_refused(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    configurations = read_plan(run).configurations
    mirrored = {name: part.model_copy(update={"border": "mirror"}) for name, part in configurations.items()}
    change_plan(run, configurations=mirrored)
    with pytest.raises(ExchangeError, match=r"3d_fullres continues images at their border \('mirror'\)"):
        export_model(run, tmp_path / "exported", progress=TELLER)


def test_labels_that_are_exchanged_where_nnunet_cannot_are_refused(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    change_plan(
        run,
        configurations={
            name: part.model_copy(
                update={
                    "training": part.training.model_copy(
                        update={"transforms": build_transforms(mirror_pairs={"axis": 0, "pairs": ((1, 2),)})}
                    )
                }
            )
            for name, part in read_plan(run).configurations.items()
        },
    )
    with pytest.raises(ExchangeError, match=r"3d_fullres exchanges the labels of left and right .*'mirror_pairs'"):
        export_model(run, tmp_path / "exported", progress=TELLER)


@pytest.mark.parametrize("output", ["exported", "new/folders/exported"])
def test_a_refused_export_leaves_nothing(output: str, tmp_path: Path) -> None:
    """Of two configurations the second one is refused: neither is left, and no empty folder."""
    plans = build_foreign_plans({"2d": build_foreign_configuration(2), "3d_fullres": build_foreign_configuration()})
    for name in ("2d", "3d_fullres"):
        write_foreign_model(tmp_path / "results", plans=plans, configuration=name)
    run = tmp_path / "x.autoseg"
    import_model(tmp_path / "results", run, progress=TELLER)
    path = RunFolder(run).fold("3d_fullres", "0").plan
    write_document(path, read_document(path, Plan).model_copy(update={"file_ending": ".jpg"}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExchangeError, match=r"does not read \.jpg files"):
        export_model(run, tmp_path / output, progress=TELLER)
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_that_an_export_found_stay_when_it_is_refused(source: Path, tmp_path: Path) -> None:
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    change_plan(tmp_path / "x.autoseg", file_ending=".jpg")
    (tmp_path / "exported").mkdir()
    with pytest.raises(ExchangeError, match=r"does not read \.jpg files"):
        export_model(tmp_path / "x.autoseg", tmp_path / "exported", progress=TELLER)
    assert list((tmp_path / "exported").iterdir()) == []


def test_measured_intensities_are_exported_where_the_run_has_them(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    measured = ForegroundIntensities(
        mean=1, median=2, std=3, min=4, max=5, percentile_00_5=6, percentile_99_5=7
    )  # fmt: skip
    case = {
        "name": "a", "spacing_mm": (1, 1, 1), "shape_voxels": (4, 4, 4), "cropped_shape_voxels": (4, 4, 4),
        "relative_size_after_cropping": 1, "voxel_counts": (),
    }  # fmt: skip
    plan = read_plan(run)
    fingerprint = Fingerprint.model_validate({
        "autoseg_version": "0", "dataset_name": "x", "file_ending": ".nii.gz", "labels": plan.labels,
        "channels": (ChannelFingerprint(name="MR", foreground=measured),), "cases": (case,), "orientation": None,
        "median_relative_size_after_cropping": 1,
    })  # fmt: skip
    write_document(RunFolder(run).fingerprint, fingerprint)
    (model,) = export_model(run, tmp_path / "exported", progress=TELLER)
    plans = json.loads((model.folder / "plans.json").read_text())
    assert plans["foreground_intensity_properties_per_channel"]["0"]["median"] == 2


def test_an_export_replaces_an_earlier_one_only_if_asked_and_then_wholly(source: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "x.autoseg", tmp_path / "exported"
    import_model(source, run, progress=TELLER)
    export_model(run, out, progress=TELLER)
    with pytest.raises(ExchangeError, match="holds something else; choose another folder"):
        export_model(run, out, ExportRequest(folds=("1",)), progress=TELLER)
    (model,) = export_model(run, out, ExportRequest(folds=("1",), overwrite=True), progress=TELLER)
    assert [path.name for path in model.folder.glob("fold_*")] == ["fold_1"]
    next(model.folder.rglob("*.pth")).write_bytes(b"damaged")
    with pytest.raises(ExchangeError, match="holds something else; choose another folder"):
        export_model(run, out, ExportRequest(folds=("1",)), progress=TELLER)
    assert [path.name for path in out.iterdir()] == [model.folder.name]


def test_an_export_on_a_full_disk_is_an_error_and_its_repetition_is_right(source: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "x.autoseg", tmp_path / "exported"
    import_model(source, run, progress=TELLER)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # enough for the descriptions
    try:
        with pytest.raises(RunError, match=r"cannot write .*checkpoint_final\.pth: File too large; free space"):
            export_model(run, out, progress=TELLER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not out.exists()
    export_model(run, out, progress=TELLER)
    assert len(list(out.rglob("*.pth"))) == 2


def test_an_export_that_fails_leaves_the_earlier_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "x.autoseg", tmp_path / "exported"
    import_model(source, run, progress=TELLER)
    (model,) = export_model(run, out, progress=TELLER)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def fail(*arguments: object, **choices: object) -> None:
        msg = "disk full"
        raise RunError(msg)

    monkeypatch.setattr(exporting, "write_nnunet_checkpoint", fail)
    with pytest.raises(RunError, match="disk full"):
        export_model(run, out, ExportRequest(overwrite=True), progress=TELLER)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in out.iterdir()] == [model.folder.name]


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_import_that_fails_at_a_later_fold_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (source / "fold_1" / "checkpoint_final.pth").write_bytes(b"damaged")
    with pytest.raises(ExchangeError, match="fold_1"):
        import_model(source, tmp_path / "runs" / "x.autoseg", progress=TELLER)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("failing", ["convert_weights", "write_imported_fold", "record_imported_model"])
def test_an_import_that_fails_leaves_the_earlier_model(
    source: Path, tmp_path: Path, *, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    before = read_files(run)
    plans = build_foreign_plans({"3d_fullres": build_foreign_configuration(spacing=[3.0, 1.0, 1.0])})
    other = write_foreign_model(tmp_path / "others", folds=("1", "2"), plans=plans)
    calls = iter((1, 2, 3) if failing == "convert_weights" else (3,))  # it is checked once more before

    def stop(*arguments: Any, **options: Any) -> Any:
        if next(calls) < 3:
            return convert_weights(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(importing, failing, stop)
        with pytest.raises(KeyboardInterrupt):
            import_model(other, run, ImportRequest(overwrite=True), progress=TELLER)
    assert read_files(run) == before


def test_an_import_that_was_killed_can_be_repeated(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "x.autoseg"
    with monkeypatch.context() as patch:
        patch.setattr(temporary_files, "_read_start", lambda pid: 1)  # another process than this one
        left = temporary_files.name_temporary(RunFolder(run).fold("3d_fullres", "0").root)
    left.mkdir(parents=True)
    (left / "plan.json").write_text("{}")
    import_model(source, run, progress=TELLER)
    assert not left.exists()


def test_a_model_that_is_replaced_leaves_none_of_its_folds(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    other = write_foreign_model(tmp_path / "others", folds=("2", "3"))
    import_model(other, run, ImportRequest(overwrite=True), progress=TELLER)
    assert load_model(run, device="cpu").folds == ("2", "3")
    import_model(source, run, ImportRequest(overwrite=True, folds=("1",)), progress=TELLER)  # a part of it
    assert load_model(run, device="cpu").folds == ("1", "2", "3")


def test_a_run_without_models_is_not_exported(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    shutil.rmtree(run / "models")
    with pytest.raises(PredictionError, match="no training"):
        export_model(run, tmp_path / "exported", progress=TELLER)


def test_a_file_where_a_folder_is_to_be_written_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("notes")
    with pytest.raises(RunError, match="file is a file, expected a folder"):
        import_model(source, tmp_path / "file", progress=TELLER)
    import_model(source, tmp_path / "x.autoseg", progress=TELLER)
    with pytest.raises(RunError, match="file is a file, expected a folder"):
        export_model(tmp_path / "x.autoseg", tmp_path / "file", progress=TELLER)
    assert (tmp_path / "file").read_text() == "notes"


def test_folds_that_are_there_already_are_not_said_to_be_imported(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, ImportRequest(folds=("0",)), progress=TELLER)
    (model,) = import_model(source, run, progress=TELLER)
    assert (model.folds, model.written) == (("0", "1", "all"), ("1", "all"))
    assert "folds 1, all:" in model.describe()


def test_a_run_of_imported_models_is_finished_and_cannot_be_trained_or_preprocessed(
    source: Path, tmp_path: Path
) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    statuses = read_run_status(run)
    assert [(status.fold, status.state) for status in statuses] == [
        ("0", "finished"), ("1", "finished"), ("all", "finished"),
    ]  # fmt: skip
    match = r"holds imported models .*no training data.*autoseg plan DATASET --run OTHER"
    with pytest.raises(RunError, match=match):
        list_units(run, TrainingRequest(), progress=TELLER)
    with pytest.raises(RunError, match=match):
        preprocess_run(run, configurations=(), workers=1, progress=TELLER)


def test_a_fold_that_was_not_imported_is_to_be_imported_not_trained(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    for configuration, fold in (("3d_fullres", "3"), ("2d", "0")):
        with pytest.raises(PredictionError) as caught:
            find_folds(RunFolder(run), configuration, (fold,))
        assert f"autoseg import SOURCE {run} --configuration {configuration} --fold {fold}" in str(caught.value)
        assert "autoseg train" not in str(caught.value)
    with pytest.raises(PredictionError, match="autoseg import SOURCE"):
        find_folds(RunFolder(run), "2d", None)


def test_what_was_selected_and_nnunet_will_not_do_is_warned_of(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "x.autoseg"
    import_model(source, run, progress=TELLER)
    rules = (FillHoles(name="liver", values=(1,), fill_value=1),)
    members = tuple(Member(configuration=name, folds=("0",), weights_sha256=("0",)) for name in ("3d_fullres", "2d"))
    prediction = build_prediction_choice((), mirroring=False, decoding="dice")
    chosen = build_selection(members, rules).model_copy(update={"prediction": prediction})
    write_document(RunFolder(run).selection, chosen)
    notes = Notes()
    export_model(run, tmp_path / "exported", progress=notes)
    warnings = [note for note in notes.lines if note.startswith("warning: ")]
    assert any("nnU-Net will not apply it: fill holes of liver" in note for note in warnings)
    assert any("3d_fullres + 2d was selected" in note and "single models" in note for note in warnings)
    assert any("highest expected Dice was selected, nnU-Net will take the most probable" in note for note in warnings)
    assert any("without mirrored views was selected; with nnU-Net: --disable_tta" in note for note in warnings)
