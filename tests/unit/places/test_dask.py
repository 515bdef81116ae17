"""Cases are given to the workers of Dask, and what goes wrong there is told apart; without Dask, by a fake client."""

import asyncio
import concurrent.futures
import json
import os
import re
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from builders.balls import write_balls
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan
from builders.progress import Notes

from autoseg.cli.app import app
from autoseg.cli.plan import plan
from autoseg.cli.preprocess import preprocess
from autoseg.errors import CasesFailedError, OptionError, PredictionError, UnreachableError, WorkerError
from autoseg.geometry import Grid
from autoseg.inference.ensemble import load_ensemble
from autoseg.places import PLACES, dask, dask_queue, open_place
from autoseg.places.case_worker import Caller, find_refusal, read_library_versions, run_case
from autoseg.places.dask import DaskCluster, check_versions, describe_caller, list_environments
from autoseg.places.dask_queue import GPU
from autoseg.preprocessing.cache import is_case_written
from autoseg.processes.case_pool import CaseSize
from autoseg.run_folder import RunFolder
from autoseg.volume_io import write_image, write_label_map
from autoseg.workflows.predict import image_tasks
from autoseg.workflows.predict.image_tasks import predict_images_in_tasks
from autoseg.workflows.predict.prediction import PredictionOutcome, PredictionRequest

needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="needs autoseg[dask]")


class KilledWorker(Exception):  # noqa: N818
    """The error of Dask of this name."""


class FakeFuture:
    def __init__(self, outcome: object) -> None:
        self.outcome = outcome

    def exception(self, timeout: float) -> object:
        del timeout
        is_error = isinstance(self.outcome, Exception) and not isinstance(
            self.outcome, concurrent.futures.CancelledError
        )
        return self.outcome if is_error else None

    def result(self, timeout: float) -> object:
        del timeout
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)


class FakeClient:
    """Does the work at once, in this process.

    Attributes:
        events: What happens to the first tasks of a case instead of the work, by the name of the case.
        workers: Resources of the workers.
        submitted: Names and resources of all tasks.
    """

    def __init__(
        self, events: dict[str, list[object]] | None = None, workers: Sequence[dict[str, float]] = ({},)
    ) -> None:
        self.events, self.workers = events or {}, workers
        self.submitted: list[tuple[str, object]] = []
        self.pending: list[object] = []
        self.cancelled: list[object] = []

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> FakeFuture:
        name = arguments[1]
        self.submitted.append((name, options["resources"]))
        events = self.events.get(name, [])
        keywords = {"runs_networks": options["runs_networks"]}
        return FakeFuture(events.pop(0) if events else function(*arguments, **keywords))

    def cancel(self, futures: Any, **options: Any) -> None:
        self.cancelled += list(futures)

    def scheduler_info(self) -> dict[str, Any]:
        return {"workers": {str(index): {"resources": found} for index, found in enumerate(self.workers)}}


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    with describe_caller(tmp_path) as caller:
        yield caller


def run(client: FakeClient, caller: Caller, work: Callable[[Any], Any] = abs, **options: Any) -> Any:
    place = DaskCluster(provide_client=lambda count, runs_networks: client, caller=caller)
    jobs = [("a", -1), ("b", -2), ("c", -3)]
    return place.run_over_cases(
        work, jobs, workers=2, label="Testing", progress=options.pop("notes", Notes()), **options
    )


def test_results_come_in_the_order_of_the_cases_with_their_progress(caller: Caller) -> None:
    notes = Notes()
    assert run(FakeClient(), caller, notes=notes).results == (1, 2, 3)
    assert (notes.labels, notes.totals) == (["Testing"], [3])


def test_a_case_that_fails_stops_no_other(caller: Caller) -> None:
    outcome = run(FakeClient(), caller, fail_for_two)
    assert outcome.results == (1, 3)
    assert [failure.describe() for failure in outcome.failures] == [("case b: no such image",)]


def fail_for_two(job: int) -> int:
    if job == -2:
        message = "no such image"
        raise PredictionError(message)
    return -job


def test_results_are_handed_over_as_they_come(caller: Caller) -> None:
    seen: list[tuple[int, int]] = []
    assert run(FakeClient(), caller, collect=lambda index, result: seen.append((index, result))).results == ()
    assert seen == [(0, 1), (1, 2), (2, 3)]


def test_a_case_that_kills_its_workers_fails_alone_with_advice(caller: Caller) -> None:
    sizes = {"b": CaseSize(voxels=10**9, estimated_bytes=40 * 2**30)}
    outcome = run(FakeClient({"b": [KilledWorker()]}), caller, sizes=sizes)
    assert outcome.results == (1, 3)
    (text,) = outcome.failures[0].describe()
    assert text.startswith("case b: every worker that worked on this case (1e+03 million voxels, about 40 GiB")
    assert "start fewer workers on each computer, or with a higher --memory-limit" in text


def test_cases_that_died_with_another_one_are_tried_again_alone(caller: Caller) -> None:
    client = FakeClient({"a": [KilledWorker()], "b": [KilledWorker(), KilledWorker()]})
    outcome = run(client, caller)
    assert outcome.results == (1, 3)
    assert [failure.case for failure in outcome.failures] == ["b"]
    assert [name for name, _ in client.submitted] == ["a", "b", "c", "a", "b"]


def test_a_result_whose_worker_died_is_waited_for(caller: Caller) -> None:
    class LateFuture(FakeFuture):
        def result(self, timeout: float) -> object:
            self.outcome, outcome = 1, self.outcome
            if outcome is None:
                raise TimeoutError
            return outcome

    client = FakeClient()
    client.submit = lambda *arguments, **options: LateFuture(None)  # type: ignore[method-assign]
    assert run(client, caller).results == (1, 1, 1)


def test_only_as_many_tasks_as_a_scheduler_should_hold_are_submitted(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_queue, "MOST_SUBMITTED", 1)
    client, seen = FakeClient(), []
    run(client, caller, collect=lambda index, result: seen.append(len(client.submitted)))
    assert seen == [1, 2, 3]


def test_an_interruption_cancels_what_is_not_yet_worked_on(caller: Caller) -> None:
    def interrupt(index: int, result: int) -> None:
        raise KeyboardInterrupt

    client = FakeClient()
    with pytest.raises(KeyboardInterrupt):
        run(client, caller, collect=interrupt)
    assert len(client.cancelled) == 2


@pytest.mark.parametrize(
    ("workers", "networks", "expected"),
    [([{}, {GPU: 1}], True, {GPU: 1}), ([{}, {GPU: 1}], False, None), ([{}], True, None)],
)
def test_networks_run_where_there_is_a_gpu(
    caller: Caller, workers: list[dict[str, float]], *, networks: bool, expected: object
) -> None:
    client = FakeClient(workers=workers)
    run(client, caller, runs_networks=networks)
    assert {str(resources) for _, resources in client.submitted} == {str(expected)}


def test_without_workers_there_is_an_end(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    class SilentFuture(FakeFuture):
        def add_done_callback(self, callback: Callable[[Any], None]) -> None:
            pass

    monkeypatch.setattr(dask_queue, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(dask_queue, "SECONDS_WITHOUT_WORKERS", 0.05)
    client, notes = FakeClient(workers=()), Notes()
    client.submit = lambda *arguments, **options: SilentFuture(None)  # type: ignore[method-assign]
    with pytest.raises(WorkerError, match=r"has had no workers for .* the same command continues"):
        run(client, caller, notes=notes)
    assert notes.lines == ["waiting for workers of Dask, of which there are none"]


@pytest.mark.parametrize("error", [asyncio.CancelledError("lost"), concurrent.futures.CancelledError("lost")])
def test_a_lost_scheduler_is_named(caller: Caller, error: BaseException) -> None:
    client = FakeClient()
    client.submit = lambda *arguments, **options: FakeFuture(error)  # type: ignore
    with pytest.raises(WorkerError, match="connection to the scheduler of Dask was lost"):
        run(client, caller)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ModuleNotFoundError("No module named 'autoseg'"), WorkerError, "No module named 'autoseg'.*the same Python"),
        (UnreachableError("s3://data: no answer"), UnreachableError, "s3://data: no answer"),
    ],
)
def test_what_hinders_every_case_ends_the_work(
    caller: Caller, error: Exception, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run(FakeClient({"a": [error]}), caller)


def test_a_worker_that_does_not_see_the_run_ends_the_work(tmp_path: Path) -> None:
    with describe_caller(tmp_path / "run" / "not yet") as caller:
        assert caller.mark.parent == tmp_path
        assert find_refusal(caller) is None
    assert list(tmp_path.iterdir()) == []
    find_refusal.cache_clear()
    with pytest.raises(WorkerError, match=f"on {socket.gethostname()} cannot work on this run: it cannot read .*share"):
        run(FakeClient(), caller)


def test_a_worker_with_other_versions_ends_the_work(caller: Caller) -> None:
    versions = tuple((name, "1.0" if name == "numpy" else found) for name, found in read_library_versions())
    with pytest.raises(WorkerError, match=r"it has numpy .* instead of 1.0; install the same versions"):
        run(FakeClient(), replace(caller, versions=versions))


def test_a_run_that_cannot_be_written_is_told_by_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    (tmp_path / "plan.json").write_text("{}")
    monkeypatch.setattr(Path, "write_text", refuse)
    with describe_caller(tmp_path) as caller:
        assert caller.mark == tmp_path / "plan.json"
    assert caller.mark.is_file()


def test_relative_paths_begin_where_the_command_was_started(
    tmp_path: Path, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    with describe_caller(tmp_path) as caller:
        monkeypatch.chdir("/")
        assert run_case(os.path.exists, "a", "here", caller, runs_networks=False) is True
    assert Path.cwd() == Path("/")


@pytest.mark.parametrize("part", ["scheduler", "worker"])
def test_another_version_of_dask_is_refused(part: str) -> None:
    def describe(version: str) -> dict[str, Any]:
        return {"host": {"python": "3.11.7.final.0"}, "packages": {"dask": version, "distributed": version}}

    found = {
        "client": describe("2026.8.0"),
        "scheduler": describe("2026.8.0" if part == "worker" else "2026.1.0"),
        "workers": {"tcp://10.0.0.2:1": describe("2026.1.0" if part == "worker" else "2026.8.0")},
    }
    with pytest.raises(WorkerError, match=rf"the {part}.* has Python 3\.11, dask 2026\.1\.0, distributed 2026\.1\.0"):
        check_versions(json.loads(json.dumps(found)))


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("dask", ("cpus=2",), "--on dask takes no settings, found 'cpus=2'"),
        pytest.param("dask://node1", (), "expected the address .* such as dask://10.0.0.1:8786", marks=needs_dask),
    ],
)
def test_wrong_addresses_and_settings_are_refused(
    tmp_path: Path, text: str, settings: Sequence[str], message: str
) -> None:
    with pytest.raises(OptionError, match=message), open_place(text, tmp_path, settings):
        pass


def test_without_dask_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'autoseg\[dask\]'"), open_place("dask", tmp_path):
        pass


@needs_dask
def test_a_scheduler_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "SECONDS_TO_CONNECT", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"dask://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(WorkerError, match="no scheduler of Dask answers"), open_place(address, tmp_path):
            pass


def test_trainings_are_refused(caller: Caller) -> None:
    place = DaskCluster(provide_client=lambda count, runs_networks: FakeClient(), caller=caller)
    for refuse in (place.run_tasks, place.describe_tasks):
        with pytest.raises(OptionError, match="is for work on single cases"):
            refuse(())
    assert not place.is_detached


def test_workers_of_this_computer_share_its_cores_or_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(dask, "count_usable_cpus", lambda: 8)
    assert list_environments(3, gpus=()) == ({"OMP_NUM_THREADS": "2"},) * 3
    assert list_environments(3, gpus=("0", "2")) == ({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2"})


ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """Takes the place of all schedulers."""
    client = FakeClient()

    @contextmanager
    def open_fake(address: str, run_root: Path, settings: Sequence[str]) -> Iterator[DaskCluster]:
        assert (address, settings) == ("", ())
        with describe_caller(run_root) as caller:
            yield DaskCluster(provide_client=lambda count, runs_networks: client, caller=caller)

    monkeypatch.setitem(PLACES, "dask", open_fake)  # type: ignore[misc]
    return client


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run with a trained network, beside two images and references."""
    run, grid = tmp_path / "abdomen.autoseg", Grid(shape_voxels=(8, 9, 10), spacing_mm=(1.0, 1.0, 1.0))
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))})
    write_trained_fold(run, plan, "3d_fullres", fold="0")
    random = np.random.default_rng(0)
    for name in ("case0", "case1"):
        image = random.normal(size=grid.shape_voxels).astype(np.float32)
        write_image(tmp_path / "new_images" / f"{name}_0000.nii.gz", image, grid=grid)
        path = tmp_path / "new_labels" / f"{name}.nii.gz"
        write_label_map(path, np.zeros(grid.shape_voxels, np.uint8), grid=grid, like=None)
    return run


def test_plan_and_preprocess_give_cases_to_workers(
    tmp_path: Path, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_balls(tmp_path / "Dataset001_Balls", cases=2)
    plan(Path("Dataset001_Balls"), run=Path("balls.autoseg"), configuration=["3d_fullres"], on="dask")
    assert [name for name, _ in client.submitted] == ["case0", "case1"] * 2
    run = RunFolder(tmp_path / "balls.autoseg")
    (run.preprocessed("3d_fullres") / "case0.json").unlink()
    preprocess(run.root, configuration=["3d_fullres"], on="dask")
    assert [name for name, _ in client.submitted[4:]] == ["case0"]
    assert is_case_written(run.preprocessed("3d_fullres"), "case0")


def test_the_page_about_dask_runs(
    trained: Path, client: FakeClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = ROOT / "docs" / "how-to" / "dask.md"
    if not page.is_file():
        pytest.skip("needs the sources: pages are not installed")
    (block,) = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(trained.parent)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in block.splitlines():
        _, name, *arguments = shlex.split(line)
        commands[name].main(arguments, standalone_mode=False)
    shown = capsys.readouterr()
    assert "2 label maps written in predictions" in shown.out + shown.err
    assert [name for name, _ in client.submitted] == ["case0", "case1"] * 2
    assert Path("predictions/summary.json").is_file()


def predict(trained: Path, client: FakeClient, **options: Any) -> PredictionOutcome:
    request = PredictionRequest(device="cpu", **options)
    with describe_caller(trained) as caller:
        place = DaskCluster(provide_client=lambda count, runs_networks: client, caller=caller)
        images, out = trained.with_name("new_images"), trained.with_name("out")
        return predict_images_in_tasks(trained, images, out, request=request, place=place, progress=Notes())


def test_images_that_are_predicted_are_kept_and_loaded_networks_too(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(image_tasks, "load_ensemble", lambda *a, **b: loaded.append(a) or load_ensemble(*a, **b))
    image_tasks._load_once.cache_clear()
    assert predict(trained, FakeClient()) == PredictionOutcome(written=2, kept=0)
    assert predict(trained, FakeClient()) == PredictionOutcome(written=0, kept=2)
    assert len(loaded) == 1
    final = RunFolder(trained).fold("3d_fullres", "0").final_checkpoint
    os.utime(final, (0, 0))
    predict(trained, FakeClient())
    assert len(loaded) == 2


def test_a_label_map_that_a_worker_wrote_elsewhere_is_a_failure(trained: Path) -> None:
    client = FakeClient({"case1": [(True, ())]})
    with pytest.raises(CasesFailedError, match=r"case case1: a worker has written its label map, but .* shared"):
        predict(trained, client)


def test_a_budget_is_refused(trained: Path) -> None:
    with pytest.raises(OptionError, match="--budget"):
        predict(trained, FakeClient(), budget_seconds=10.0)
