"""A previous stage may have a previous stage itself."""

import numpy as np
import pytest
import torch
from builders.progress import skip_drawing

from autoseg.document import parse_part
from autoseg.errors import DeviceError, DocumentError, RunError, TrainingError
from autoseg.inference.model import load_model
from autoseg.networks.cost import count_cost
from autoseg.plan import MasksOfPreviousStage, Plan
from autoseg.processes.progress import SilentProgress
from autoseg.stages.preparation import preprocess_for_stages
from autoseg.stages.stored_maps import read_source
from autoseg.training.options import Length
from autoseg.workflows.cascade import warn_of_stale_stages
from autoseg.workflows.plan.preprocessing import select_data_configurations
from autoseg.workflows.train.request import TrainingRequest
from autoseg.workflows.train.training import train_run
from autoseg.workflows.train.units import list_units

FIRST, SECOND, THIRD = "3d_lowres", "3d_cascade_fullres", "third"


_no_drawing = pytest.fixture(autouse=True)(skip_drawing)


def test_a_stage_gets_a_mask_for_each_foreground_label_of_the_one_before_it(plan):
    second = plan.configurations[SECOND]
    assert second.previous_stage == MasksOfPreviousStage(configuration=FIRST)
    assert second.previous_stage.count_channels(plan.labels) == 3
    assert plan.configurations[FIRST].previous_stage is None


def test_stages_are_listed_in_the_order_of_training(plan):
    assert plan.list_stages(FIRST) == (FIRST,)
    assert plan.list_stages(SECOND) == (FIRST, SECOND)
    assert plan.list_stages(THIRD) == (FIRST, SECOND, THIRD)
    assert set(select_data_configurations(plan, [THIRD])) == {FIRST, "3d_fullres"}


def change(content, configuration, previous):
    content["configurations"][configuration]["previous_stage"] = previous
    return content


def masks_of(configuration):
    return {"input": "masks", "configuration": configuration}


@pytest.mark.parametrize(
    ("configuration", "previous", "message"),
    [
        (FIRST, masks_of(THIRD), r"must not lead back to .*\(got .* -> .*\)"),
        (FIRST, masks_of(FIRST), r"must not lead back to .*\(got 3d_lowres -> 3d_lowres -> "),
        (SECOND, masks_of("other"), r"previous_stage\.configuration must name one of .*\(got 'other'\)"),
        (SECOND, {"input": "mask", "configuration": FIRST}, r"'input' must be one of masks, .*did you mean 'masks'"),
        (SECOND, {"input": "masks"}, r"configuration.*is missing"),
        (SECOND, None, r"input_channels must be 1"),
    ],
)
def test_previous_stages_that_make_no_sense_are_refused(describe_plan, configuration, previous, message):
    with pytest.raises(DocumentError, match=message):
        parse_part(change(describe_plan(), configuration, previous), Plan, where="plan.json")


def test_a_case_is_preprocessed_for_every_stage(plan, grid):
    array = np.random.default_rng(0).normal(1, 0.1, (1, *grid.shape_voxels)).astype(np.float32)
    case = preprocess_for_stages(array, grid, plan, THIRD)
    assert np.array_equal(case.image, case.previous.image)
    assert case.previous.previous.image.shape == (1, 5, 6, 4)
    assert case.previous.previous.previous is None


def start(run, configuration, **options):
    request = TrainingRequest(configuration=configuration, device="cpu", precision="float32", workers=0, **options)
    trained = train_run(run.root, request, progress=SilentProgress())
    return [(done.folder.root.parent.name, done.fold) for done in trained]


@pytest.fixture
def chain(run):
    """Fold 0 of the third stage is trained, and with it all that it needs."""
    names = [*((name, str(fold)) for name in (FIRST, SECOND) for fold in range(3)), (THIRD, "0")]
    assert start(run, THIRD, folds=("0",)) == names
    return run


def test_the_stages_of_a_chain_are_trained_one_after_the_other(chain, plan):
    sources = {name: read_source(chain.preprocessed(name), "c") for name in (SECOND, THIRD)}
    assert {name: (source.configuration, source.fold) for name, source in sources.items()} == {
        SECOND: (FIRST, "1"),
        THIRD: (SECOND, "1"),
    }
    assert start(chain, THIRD, folds=("0",)) == [(THIRD, "0")]  # what is trained is left alone


def test_the_stages_of_a_chain_predict_one_after_the_other(chain, plan, grid):
    array = np.random.default_rng(0).normal(1, 0.1, (1, *grid.shape_voxels)).astype(np.float32)
    model = load_model(chain, configuration=THIRD, device="cpu")
    assert [stage.configuration for stage in model.stages] == [FIRST, SECOND, THIRD]
    second = load_model(chain, configuration=SECOND, device="cpu")
    label_map = plan.labels.encode(second.predict_volume(array, grid))
    full = np.concatenate([array, [label_map == 1, label_map == 2, label_map == 3]], dtype=np.float32)
    assert torch.equal(model.predict_case(model.preprocess(array, grid)), model.predict_preprocessed(full))


def test_a_fold_that_cannot_be_trained_anew_keeps_what_was_trained(run):
    start(run, FIRST, folds=("0",))
    folder = run.fold(FIRST, "0")
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="has no synthetic cases"):
        start(run, FIRST, folds=("0",), restart=True, synthetic=True)
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before
    start(run, FIRST, folds=("0",), restart=True, length=Length(epochs=2))
    assert folder.final_checkpoint.read_bytes() != before[folder.final_checkpoint]
    assert {path.name for path in folder.root.parent.iterdir()} == {"fold_0", ".fold_0.lock"}


def test_a_fold_whose_record_is_damaged_keeps_its_validation(run):
    start(run, FIRST, folds=("0",))
    folder = run.fold(FIRST, "0")
    folder.training_record.write_text("{")
    with pytest.raises(DocumentError, match=r"training\.json"):
        start(run, FIRST, folds=("0",), length=Length(more_epochs=1))
    assert folder.summary.is_file()


def test_a_stage_is_not_trained_on_one_that_learnt_from_an_earlier_stage(chain):
    start(chain, FIRST, folds=("1",), restart=True, length=Length(epochs=2))
    with pytest.raises(
        TrainingError, match=rf"{SECOND} was trained on predictions of {FIRST}.*folds 0, 1, 2.*--restart"
    ):
        start(chain, THIRD, folds=("0",))


@pytest.mark.parametrize("is_damaged", ["the checkpoint of another fold", "the folds"])
def test_a_stage_predicts_without_a_word_on_its_training_where_that_cannot_be_read(chain, is_damaged):
    model = load_model(chain, configuration=SECOND, folds=("0",), device="cpu")
    damaged = chain.splits if is_damaged == "the folds" else chain.fold(FIRST, "1").final_checkpoint
    damaged.unlink()
    damaged.mkdir()  # a file that cannot be read
    assert list(warn_of_stale_stages(chain, [model])) == []


def test_several_units_bring_all_stages_before_them(run):
    units = list_units(run.root, TrainingRequest(configuration=THIRD), progress=SilentProgress())
    assert [unit.configuration for unit in units] == [name for name in (FIRST, SECOND, THIRD) for _ in range(3)]
    assert [unit.needs for unit in units[::3]] == [None, FIRST, SECOND]
    assert [unit.is_only_needed for unit in units[::3]] == [True, True, False]


def test_a_parallel_training_needs_memory_for_its_part_of_the_batch_alone(run, monkeypatch):
    counts = []

    def refuse(configuration, name, device, *, count, process_count):
        assert count is count_cost
        counts.append(process_count)
        raise DeviceError(name)

    monkeypatch.setattr("autoseg.workflows.train.training.check_training_memory", refuse)
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for is_parallel in (True, False):
        with pytest.raises(DeviceError):
            start(run, FIRST, parallel=is_parallel)
    assert counts == [4, 1]
