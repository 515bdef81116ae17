"""What a user does wrong: clear messages, exit code 1, no traceback, nothing half-written."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.balls import AFFINE, make_case, save, write_balls
from builders.command_line import Done, run_autoseg
from builders.datasets import describe_dataset


def check_refused(done: Done, *texts: str) -> None:
    assert done.code == 1, done.out + done.err
    assert "Traceback" not in done.err
    for text in texts:
        assert text in done.err, done.err


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A good dataset of five cases, to be broken by the test."""
    return write_balls(tmp_path / "Dataset002_Broken", cases=5)


def test_a_missing_dataset(tmp_path: Path) -> None:
    check_refused(run_autoseg("plan", tmp_path / "nowhere", cwd=tmp_path), "nowhere")


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_refused(run_autoseg("plan", tmp_path / "empty", cwd=tmp_path), "dataset.json")


def test_malformed_json(broken: Path, tmp_path: Path) -> None:
    (broken / "dataset.json").write_text('{"labels": ')
    check_refused(run_autoseg("plan", broken, cwd=tmp_path), "dataset.json", "line 1")


def test_a_misspelt_key_is_named_with_the_closest_known_one(broken: Path, tmp_path: Path) -> None:
    description = json.loads((broken / "dataset.json").read_text())
    description["lables"] = description.pop("labels")
    (broken / "dataset.json").write_text(json.dumps(description))
    check_refused(run_autoseg("plan", broken, cwd=tmp_path), "lables", "'labels'")


def test_all_problems_of_a_dataset_come_in_one_report(broken: Path, tmp_path: Path) -> None:
    image, label_map = make_case(0)
    save(broken / "labelsTr" / "case0.nii.gz", label_map[:-1])
    moved = AFFINE.copy()
    moved[0, 0] = -1.5
    save(broken / "labelsTr" / "case1.nii.gz", label_map, moved)
    image[3, 4, 5] = np.nan
    save(broken / "imagesTr" / "case2_0000.nii.gz", image)
    label_map[0, 0, 0] = 77
    save(broken / "labelsTr" / "case3.nii.gz", label_map)
    (broken / "imagesTr" / "case4_0000.nii.gz").write_bytes(b"no image")
    done = run_autoseg("plan", broken, "--run", tmp_path / "run", "--workers", 2)
    check_refused(done, "case0", "case1", "case2", "case3", "case4", "77", "NaN")
    assert not (tmp_path / "run" / "plan.json").exists()
    assert not (tmp_path / "run" / "preprocessed").exists()


def test_missing_labels_are_all_named(broken: Path, tmp_path: Path) -> None:
    (broken / "labelsTr" / "case1.nii.gz").unlink()
    (broken / "labelsTr" / "case3.nii.gz").unlink()
    check_refused(run_autoseg("plan", broken, cwd=tmp_path), "case1", "case3")


def test_missing_channels_are_named_once_for_all_cases(broken: Path, tmp_path: Path) -> None:
    describe_dataset(broken, channel_names={"0": "T1", "1": "T2"})
    done = run_autoseg("plan", broken, "--workers", 1, cwd=tmp_path)
    check_refused(
        done,
        "5 cases (case0, case1, case2, ...)",
        "expected 2 channels",
        "T1, T2",
        "found 1",
        '"channel_names": {"0": "T1"}',
    )


def test_a_single_case_cannot_be_cross_validated(tmp_path: Path) -> None:
    dataset = write_balls(tmp_path / "Dataset003_One", cases=1)
    check_refused(run_autoseg("plan", dataset, cwd=tmp_path), "at least 2 labelled cases", "only case0")


def test_three_cases_give_three_folds_and_a_warning(tmp_path: Path) -> None:
    dataset = write_balls(tmp_path / "Dataset004_Three", cases=3)
    done = run_autoseg("plan", dataset, "--run", tmp_path / "run", "--no-preprocess", "--workers", 1)
    assert done.code == 0, done.err
    assert "only 3 cases" in done.out
    assert len(json.loads((tmp_path / "run" / "splits.json").read_text())["folds"]) == 3


def test_an_unknown_planner_and_an_unknown_configuration(dataset: Path, tmp_path: Path) -> None:
    check_refused(run_autoseg("plan", dataset, "--planner", "best", cwd=tmp_path), "'best'", "default")
    done = run_autoseg("plan", dataset, "--run", tmp_path / "run", "--configuration", "3d_full", "--workers", 1)
    check_refused(done, "'3d_full'", "3d_fullres")
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_version(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"schema_version": 99}))
    check_refused(run_autoseg("train", run), "99", "version")


def test_an_edit_that_breaks_the_plan_is_named_by_field(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    plan = json.loads((run / "plan.json").read_text())
    plan["configurations"]["3d_fullres"]["training"]["batch_size"] = -1
    (run / "plan.json").write_text(json.dumps(plan))
    check_refused(run_autoseg("preprocess", run), "configurations.3d_fullres.training.batch_size", "-1")


def test_an_output_that_is_a_file(trained_run: Path, tmp_path: Path) -> None:
    save(tmp_path / "new.nii.gz", make_case(1)[0])
    (tmp_path / "out").write_text("not a folder")
    check_refused(run_autoseg("predict", trained_run, tmp_path / "new.nii.gz", tmp_path / "out"), "out")


def test_a_finished_training_is_not_taken_for_another_one(trained_run: Path) -> None:
    done = run_autoseg("train", trained_run, "--configuration", "3d_fullres", "--fold", "0", "--epochs", 2)
    check_refused(done, "finished after 3 epochs, more than the 2 asked for", "--restart")
    done = run_autoseg("train", trained_run, "--configuration", "3d_fullres", "--fold", "0", "--seed", 7)
    check_refused(done, "seed was 0, now 7", "--restart")


def test_a_label_map_never_replaces_an_image(trained_run: Path, tmp_path: Path) -> None:
    save(tmp_path / "scan.nii.gz", make_case(1)[0])
    before = (tmp_path / "scan.nii.gz").read_bytes()
    for more in ((), ("--overwrite",)):
        done = run_autoseg("predict", trained_run, tmp_path / "scan.nii.gz", tmp_path, *more)
        check_refused(done, "is the folder of the images", "another folder")
    assert (tmp_path / "scan.nii.gz").read_bytes() == before


def test_predicting_into_a_run_is_refused(trained_run: Path, tmp_path: Path) -> None:
    save(tmp_path / "scan.nii.gz", make_case(1)[0])
    before = (trained_run / "plan.json").read_bytes()
    check_refused(run_autoseg("predict", trained_run, tmp_path / "scan.nii.gz", trained_run), "plan.json")
    assert (trained_run / "plan.json").read_bytes() == before


def test_files_of_unknown_origin_are_not_taken_for_predictions(trained_run: Path, tmp_path: Path) -> None:
    save(tmp_path / "scan_0000.nii.gz", make_case(1)[0])
    save(tmp_path / "out" / "scan.nii.gz", make_case(1)[1])
    command = ("predict", trained_run, tmp_path / "scan_0000.nii.gz", tmp_path / "out")
    before = (tmp_path / "out" / "scan.nii.gz").read_bytes()
    check_refused(run_autoseg(*command), "scan.nii.gz", "move them away")
    check_refused(run_autoseg(*command, "--overwrite"), "scan.nii.gz", "move them away")
    assert (tmp_path / "out" / "scan.nii.gz").read_bytes() == before


def test_a_run_folder_that_is_a_file_is_found_before_measuring(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    done = run_autoseg("plan", dataset, "--run", tmp_path / "run", "--workers", 1)
    check_refused(done, "is a file")
    assert "Measuring" not in done.out


def test_a_splits_file_that_does_not_fit_is_refused_before_anything_is_written(broken: Path, tmp_path: Path) -> None:
    splits = [{"train": ["case0", "case1"], "val": ["stranger"]}]
    (broken / "splits_final.json").write_text(json.dumps(splits))
    done = run_autoseg("plan", broken, "--run", tmp_path / "run", "--workers", 1)
    check_refused(done, "stranger")
    assert not (tmp_path / "run").exists()


def test_plan_edits_that_contradict_each_other_are_named(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    plan = json.loads((run / "plan.json").read_text())
    for change, text in (
        ({"data_of": "3d_ful"}, "data_of must name one of"),
        (
            {"network": plan["configurations"]["3d_fullres"]["network"] | {"input_channels": 4}},
            "input_channels must be 1",
        ),
    ):
        configurations = plan["configurations"] | {"3d_fullres": plan["configurations"]["3d_fullres"] | change}
        (run / "plan.json").write_text(json.dumps(plan | {"configurations": configurations}))
        check_refused(run_autoseg("preprocess", run), text)


def test_training_what_is_not_planned_and_a_fold_that_is_not(trained_run: Path) -> None:
    check_refused(run_autoseg("train", trained_run, "--configuration", "3d_lowres"), "3d_lowres", "3d_fullres")
    check_refused(run_autoseg("train", trained_run, "--fold", "7"), "7")
    check_refused(run_autoseg("train", trained_run, "--device", "cuda:7", "--fold", "1"), "cuda:7", "cpu")


def test_predicting_before_training(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    planned = run_autoseg("plan", dataset, "--run", run, "--no-preprocess", "--workers", 1)
    assert planned.code == 0
    assert f"next: autoseg preprocess {run}" in " ".join(planned.out.split())
    save(tmp_path / "new.nii.gz", make_case(1)[0])
    check_refused(run_autoseg("predict", run, tmp_path / "new.nii.gz", tmp_path / "out"), "autoseg train")


def test_one_bad_image_does_not_stop_the_others(trained_run: Path, tmp_path: Path) -> None:
    save(tmp_path / "images" / "a_0000.nii.gz", make_case(1)[0])
    (tmp_path / "images" / "b_0000.nii.gz").write_bytes(b"broken")
    save(tmp_path / "images" / "c_0000.nii.gz", make_case(2)[0])
    done = run_autoseg("predict", trained_run, tmp_path / "images", tmp_path / "out", "--no-mirroring")
    check_refused(done, "1 of 3", "b")
    assert (tmp_path / "out" / "a.nii.gz").is_file()
    assert (tmp_path / "out" / "c.nii.gz").is_file()
    assert not (tmp_path / "out" / "b.nii.gz").exists()


def test_predictions_without_references_and_on_another_grid(trained_run: Path, dataset: Path, tmp_path: Path) -> None:
    image, label_map = make_case(0)
    del image
    save(tmp_path / "predictions" / "stranger.nii.gz", label_map)
    check_refused(
        run_autoseg("evaluate", tmp_path / "predictions", dataset / "labelsTr", "--run", trained_run), "stranger"
    )
    swapped = run_autoseg("evaluate", trained_run / "references", tmp_path / "predictions", "--run", trained_run)
    check_refused(swapped, "name the predictions first")
    (tmp_path / "predictions" / "stranger.nii.gz").unlink()
    save(tmp_path / "predictions" / "case0.nii.gz", label_map[:-2])
    save(tmp_path / "predictions" / "case1.nii.gz", nib.load(dataset / "labelsTr" / "case1.nii.gz").get_fdata())
    done = run_autoseg("evaluate", tmp_path / "predictions", dataset / "labelsTr", "--run", trained_run)
    check_refused(done, "case0", "1 of 2")
    summary = json.loads((tmp_path / "predictions" / "summary.json").read_text())
    assert [case["case"] for case in summary["metric_per_case"]] == ["case1"]


def test_files_that_were_corrected_after_planning_are_noticed(broken: Path, tmp_path: Path) -> None:
    arguments = ("plan", broken, "--run", tmp_path / "run", "--configuration", "3d_fullres", "--workers", 1)
    assert run_autoseg(*arguments).code == 0
    corrected = make_case(50)[1]
    save(broken / "labelsTr" / "case0.nii.gz", corrected)
    check_refused(run_autoseg(*arguments), "another size or time: case0", "--overwrite")
    assert run_autoseg(*arguments, "--overwrite").code == 0
    reference = nib.load(tmp_path / "run" / "references" / "case0.nii.gz")
    np.testing.assert_array_equal(np.asarray(reference.dataobj), corrected)


def test_the_dataset_itself_cannot_be_the_run(broken: Path) -> None:
    before = (broken / "dataset.json").read_bytes()
    check_refused(run_autoseg("plan", broken, "--run", broken, "--workers", 1), "must not be the dataset")
    assert (broken / "dataset.json").read_bytes() == before


def test_an_existing_run_of_other_data_is_refused(trained_run: Path, tmp_path: Path) -> None:
    other = write_balls(tmp_path / "Dataset009_Other", cases=5)
    check_refused(
        run_autoseg("plan", other, "--run", trained_run),
        "other data (name: Dataset001_Balls there",
        "cases only there: case5",
    )
    check_refused(run_autoseg("plan", other, "--run", trained_run, "--overwrite"), "trained models")
