import pytest
from builders.clocks import Clock
from builders.folds import build_epoch_record

from autoseg.errors import RunError, TrainingError
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import FoldFolder, write_text
from autoseg.training.budget.pace import Forecast, StepTimes
from autoseg.training.monitoring.events import EpochDone, IterationDone
from autoseg.training.optimization.schedule import Schedule
from autoseg.workflows.folds.state import StateWriter, TrainingState, keep_state, read_state, record_failure


@pytest.fixture
def clock():
    return Clock(100.0)


@pytest.fixture
def folder(tmp_path):
    return FoldFolder(tmp_path / "fold_0")


@pytest.fixture
def keeper(folder, clock):
    return StateWriter(folder=folder, state=TrainingState(phase="preparing", device="cpu"), clock=clock)


SCHEDULE = Schedule(iterations_per_epoch=3, validation_iterations_per_epoch=1, end_epoch=5)


def iterate(clock, epoch, *, seconds=10.0):
    for index in range(4):
        clock.now += seconds
        stream = "training" if index < 3 else "validation"
        yield IterationDone(epoch=epoch, stream=stream, iteration=index % 3, loss=1.0)


def test_the_state_tells_epochs_and_remaining_time(keeper, folder, clock):
    seen = []
    events = [SCHEDULE, *iterate(Clock(), 2)][:1]
    for event in keeper.follow((*events,)):
        seen.append(event)
    assert seen == [SCHEDULE]
    assert (read_state(folder).phase, read_state(folder).end_epoch) == ("training", 5)

    def run():
        yield SCHEDULE
        yield from iterate(clock, 2)
        yield EpochDone(record=build_epoch_record(2), schedule=SCHEDULE)

    remaining = [read_state(folder).remaining_seconds for _ in keeper.follow(run())]
    # Epochs 2, 3 and 4 have four iterations of 10 s each.
    assert remaining == [None, 110, 100, 90, 80, 80]


def test_a_forecast_and_a_training_without_end_are_told(keeper, folder, clock):
    endless = SCHEDULE.model_copy(update={"end_epoch": None})
    times = StepTimes(
        data_seconds=0.1, forward_seconds=0.1, backward_seconds=0.1, iteration_seconds=0.2, validation_seconds=0.1
    )
    forecast = Forecast(
        times=times, schedule=SCHEDULE, budget_seconds=60.0, training_seconds=50.0, reserved_seconds=5.0
    )
    assert list(keeper.follow([forecast, endless, *iterate(clock, 0)]))[:2] == [forecast, endless]
    state = read_state(folder)
    assert (state.phase, state.end_epoch, state.remaining_seconds) == ("training", None, None)


def test_short_iterations_are_not_spent_on_writing(keeper, folder, clock):
    list(keeper.follow([SCHEDULE]))
    before = folder.state.stat().st_mtime_ns
    assert len(list(keeper.follow(iterate(clock, 0, seconds=0.1)))) == 4
    assert folder.state.stat().st_mtime_ns == before


def test_validated_cases_are_counted(keeper, folder, clock):
    progress = keeper.record_validation(SilentProgress())
    done = []
    for case in progress.track(["a", "b", "c"], label="Validating", total=3, unit="case"):
        clock.now += 5
        state = read_state(folder)
        done.append((case, state.phase, state.cases_done, state.cases))
    assert done == [("a", "validating", 1, 3), ("b", "validating", 2, 3), ("c", "validating", 3, 3)]
    assert read_state(folder).remaining_seconds == 0


def fail(folder, error):
    with keep_state(folder, device="cpu") as keeper:
        keeper.change(phase="training")
        raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingError("the loss is lost"), "the loss is lost"),
        (ZeroDivisionError("a defect"), "unexpected ZeroDivisionError: a defect"),
    ],
)
def test_a_failure_is_written_down_with_its_reason(folder, error, reason):
    with pytest.raises(type(error)):
        fail(folder, error)
    assert (read_state(folder).phase, read_state(folder).reason) == ("failed", reason)


def test_an_interruption_is_no_failure(folder):
    with pytest.raises(KeyboardInterrupt):
        fail(folder, KeyboardInterrupt())
    assert read_state(folder).phase == "training"


def test_a_training_that_ends_well_says_so_and_forgets_earlier_failures(folder):
    record_failure(folder, device="cuda:0", reason="the process was killed")
    assert (read_state(folder).phase, read_state(folder).device) == ("failed", "cuda:0")
    with keep_state(folder, device="cpu"):
        assert read_state(folder).phase == "preparing"
    assert (read_state(folder).phase, read_state(folder).reason) == ("finished", None)


def test_a_state_of_another_version_is_no_state(folder):
    assert read_state(folder) is None
    write_text(folder.state, '{"schema_version": 2}')
    assert read_state(folder) is None


def test_a_state_that_cannot_be_written_is_told_once_and_ends_no_training(folder, clock, caplog):
    with keep_state(folder, device="cpu") as keeper:
        folder.state.unlink()
        folder.state.mkdir()
        keeper.change(cases_done=1)
        keeper.change(cases_done=2)
        assert [record.getMessage() for record in caplog.records] == [
            f"cannot write {folder.state}: Is a directory; free space or choose another place; training continues, "
            f"`autoseg status` shows an earlier state meanwhile"
        ]
        folder.state.rmdir()
        keeper.change(cases_done=3)
        assert read_state(folder).cases_done == 3


def test_a_training_whose_state_cannot_be_written_at_all_does_not_begin(folder):
    folder.state.mkdir(parents=True)
    with pytest.raises(RunError, match=r"cannot write .*state\.json"), keep_state(folder, device="cpu"):
        pytest.fail("it has begun")
