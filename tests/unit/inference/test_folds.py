import pytest
from builders.plans import build_configuration, build_plan

from autoseg.errors import PlanError, PredictionError
from autoseg.inference.folds import find_configuration, find_folds, find_trained_folds
from autoseg.run_folder import FoldFolder, RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def plan():
    plane, volume = build_configuration((8, 8)), build_configuration((8, 8, 8))
    return build_plan({"2d": plane, "custom": volume, "3d_lowres": volume, "3d_fullres": volume})


def leave(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def finish(run, configuration, *folds):
    for fold in folds:
        leave(run.fold(configuration, fold).final_checkpoint)


@pytest.mark.parametrize(
    ("trained", "chosen"),
    [
        (("2d",), "2d"),
        (("custom",), "custom"),
        (("2d", "3d_lowres"), "3d_lowres"),
        (("2d", "3d_lowres", "3d_fullres", "custom"), "3d_fullres"),
        (("custom", "2d"), "2d"),
    ],
)
def test_the_trained_configuration_is_taken_and_of_several_the_preferred_one(run, plan, trained, chosen):
    for configuration in trained:
        finish(run, configuration, "0")
    assert find_configuration(run, plan, None) == chosen


def test_a_wanted_configuration_is_taken_whatever_is_trained(run, plan):
    finish(run, "3d_fullres", "0")
    assert find_configuration(run, plan, "2d") == "2d"


def test_an_unknown_configuration_is_answered_with_the_known_ones(run, plan):
    with pytest.raises(PlanError, match="no configuration '3d'; it has: 2d, custom, 3d_lowres"):
        find_configuration(run, plan, "3d")


def test_a_run_without_training_is_answered_with_the_command_that_trains(run, plan):
    with pytest.raises(PredictionError, match=r"none that was started.*autoseg train .*run --configuration 3d_fullres"):
        find_configuration(run, plan, None)


def test_a_fold_in_place_of_its_run_is_answered_with_the_run(run, plan):
    finish(run, "3d_fullres", "1")
    fold = RunFolder(run.fold("3d_fullres", "1").root)
    with pytest.raises(PredictionError, match=r"fold_1 is a fold of a run.* name the run, .*/run, and fold 1"):
        find_configuration(fold, plan, None)


def test_a_fold_that_was_taken_out_of_its_run_is_answered_with_its_place_in_one(run, plan, tmp_path):
    leave(FoldFolder(tmp_path / "mine").final_checkpoint)
    with pytest.raises(PredictionError, match=r"mine is a fold of a run.* name the run, in whose folder models/CONF"):
        find_configuration(RunFolder(tmp_path / "mine"), plan, None)


def test_a_training_that_has_not_ended_is_listed(run, plan):
    leave(run.fold("2d", "3").best_checkpoint)
    leave(run.fold("2d", "3").latest_checkpoint)
    with pytest.raises(PredictionError, match=r"2d fold_3: only checkpoint_latest.* and checkpoint_best.*not ended"):
        find_configuration(run, plan, None)


def test_all_trained_folds_are_taken_in_order(run):
    finish(run, "2d", "4", "0", "2")
    leave(run.fold("2d", "1").best_checkpoint)
    assert find_folds(run, "2d", None) == ("0", "2", "4")


def test_the_network_of_all_cases_counts_only_alone_or_when_named(run):
    finish(run, "2d", "all")
    assert find_folds(run, "2d", None) == ("all",)
    finish(run, "2d", "0")
    assert find_folds(run, "2d", None) == ("0",)
    assert find_folds(run, "2d", ["all", "0"]) == ("all", "0")
    assert find_trained_folds(run, "2d") == ("0", "all")


def test_a_wanted_fold_without_final_checkpoint_is_refused_with_what_exists(run):
    finish(run, "2d", "0")
    leave(run.fold("2d", "1").best_checkpoint)
    with pytest.raises(PredictionError) as caught:
        find_folds(run, "2d", ["0", "1", "2"])
    message = str(caught.value)
    assert "fold 1: only checkpoint_best.safetensors (the training has not ended)" in message
    assert "fold 2: no checkpoint" in message
    assert "trained are: 0" in message
    assert "--configuration 2d --fold 1" in message


def test_a_fold_that_a_restart_has_set_aside_is_named(run, plan):
    finish(run, "2d", "0")
    run.fold("2d", "0").root.rename(run.configuration_models("2d") / ".fold_0.earlier")
    with pytest.raises(PredictionError, match=r"found 2d fold_0: an earlier training that a restart has set aside"):
        find_configuration(run, plan, None)
    finish(run, "2d", "1")
    with pytest.raises(PredictionError, match=r"found fold 0: an earlier training that a restart has set aside"):
        find_folds(run, "2d", ["0"])


def test_a_configuration_without_trained_fold_is_refused(run):
    finish(run, "2d", "0")
    with pytest.raises(PredictionError, match=r"no training of 3d_fullres is finished.*--configuration 3d_fullres"):
        find_folds(run, "3d_fullres", None)


def test_an_empty_list_of_folds_is_refused(run):
    finish(run, "2d", "0")
    with pytest.raises(PredictionError, match="at least one fold"):
        find_folds(run, "2d", [])


def test_a_fold_that_is_named_twice_counts_once(run):
    finish(run, "2d", "0", "1")
    assert find_folds(run, "2d", ["1", "0", "1"]) == ("1", "0")
