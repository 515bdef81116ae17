"""Commands that are given URLs."""

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders.remote_files import FaultyFileSystem, Node

from autoseg import api
from autoseg.cli.app import app
from autoseg.cli.urls import USES, accept_urls, name_urls
from autoseg.errors import RemoteError, UnreachableError
from autoseg.remote import arguments, session
from autoseg.remote.local_files import use_local

Place = type[FaultyFileSystem]
RUN = Path("faulty://bucket/run")


def wrap(work: Callable[..., object], name: str = "train") -> Callable[..., None]:
    """A command of this name."""

    def command(**options: object) -> None:
        work(**options)

    command.__name__ = name
    return accept_urls(command)


def wait_until(is_true: Callable[[], bool]) -> None:
    for _ in range(200):
        if is_true():
            return
        time.sleep(0.05)
    pytest.fail("waited ten seconds")


def test_a_command_gets_a_local_folder_and_what_it_writes_is_published(node: Node, place: Place) -> None:
    place().pipe_file("/bucket/run/plan.json", b"{}")
    mirror = node.mirror

    def train(run: Path, epochs: int) -> None:
        assert (run, epochs) == (mirror.root, 3)
        assert (run / "plan.json").read_bytes() == b"{}"
        (run / "selection.json").write_bytes(b"[]")

    wrap(train)(run=RUN, epochs=3)
    assert place().cat_file("/bucket/run/selection.json") == b"[]"


def test_functions_take_urls_as_texts_and_by_position(place: Place) -> None:
    place().pipe_file("/bucket/run/plan.json", b"{}")
    predict = arguments.accept_urls("autoseg.predict", {"run": "read"})(lambda run, note: (run, note))
    run, note = predict("faulty://bucket/run", note="faulty://a/b")
    assert ((run / "plan.json").read_bytes(), note) == (b"{}", "faulty://a/b")
    assert predict("local", "note") == ("local", "note")


def test_every_function_of_the_api_that_takes_a_run_takes_its_url() -> None:
    functions = [getattr(api, name) for name in api.__all__ if inspect.isfunction(getattr(api, name))]
    assert len(functions) > 5
    for function in functions:
        with pytest.raises(RemoteError, match="Protocol not known: nowhere"):
            function(**dict.fromkeys(inspect.signature(function).parameters, "nowhere://bucket/x"))


def test_a_command_that_only_reads_publishes_nothing(node: Node, place: Place) -> None:
    node.begin()
    wrap(lambda run: node.write("junk", b"1"), "predict")(run=RUN)
    assert place.calls["put"] == 0


def test_a_file_is_published_as_a_file(node: Node, place: Place) -> None:
    node.begin()
    wrap(lambda out: out.write_bytes(b"page"), "report")(out=RUN / "pages" / "report.html")
    assert place().cat_file("/bucket/run/pages/report.html") == b"page"


@pytest.mark.parametrize("error", [RemoteError("no"), KeyboardInterrupt(), SystemExit(1), TypeError()])
def test_a_command_that_fails_publishes_what_is_finished(node: Node, place: Place, error: BaseException) -> None:
    node.begin()

    def train(run: Path) -> None:
        node.write("checkpoint_latest.safetensors", b"state")
        raise error

    with pytest.raises(type(error)):
        wrap(train)(run=RUN)
    assert place().cat_file("/bucket/run/checkpoint_latest.safetensors") == b"state"


def test_the_error_of_a_command_is_not_hidden_by_that_of_publishing(
    node: Node, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    node.begin()

    def train(run: Path) -> None:
        node.write("state.json", b"1")
        place.faults += ["unavailable"] * 3
        msg = "the loss is NaN"
        raise RemoteError(msg)

    with pytest.raises(RemoteError, match="the loss is NaN"):
        wrap(train)(run=RUN)
    assert "not everything is published, the next command tries again" in caplog.text


def test_a_command_fails_if_its_result_cannot_be_published(node: Node, place: Place) -> None:
    node.begin()

    def train(run: Path) -> None:
        node.write("state.json", b"1")
        place.faults += ["unavailable"] * 3

    with pytest.raises(UnreachableError, match=r"cannot write faulty://bucket/run/state.json"):
        wrap(train)(run=RUN)
    assert (node.root / "state.json").read_bytes() == b"1"


def test_results_are_published_while_a_command_runs(
    node: Node, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "SECONDS_BETWEEN", 0.05)
    node.begin()

    def train(run: Path) -> None:
        node.write("state.json", b"1")
        wait_until(lambda: place().exists("/bucket/run/state.json"))
        place.faults += ["unavailable"] * 3
        node.write("state.json", b"1, 2")
        wait_until(lambda: place().cat_file("/bucket/run/state.json") == b"1, 2")

    wrap(train)(run=RUN)
    assert "tried again in 0 s: cannot write" in caplog.text


def test_status_shows_what_others_publish_meanwhile(node: Node, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SECONDS_BETWEEN", 0.05)
    node.begin()

    def status(run: Path) -> None:
        place().pipe_file("/bucket/run/state.json", b"1")
        wait_until((run / "state.json").is_file)

    wrap(status, "status")(run=RUN)


def test_what_a_command_removes_is_not_fetched_again_by_another_one(node: Node, place: Place) -> None:
    place().pipe_file("/bucket/run/models/checkpoint_latest.safetensors", b"state")
    node.begin()

    def train(run: Path) -> None:
        (run / "models" / "checkpoint_latest.safetensors").unlink()
        wrap(lambda run: None, "status")(run=RUN)
        wrap(lambda run: None, "report")(run=RUN)
        assert list((run / "models").iterdir()) == []

    wrap(train)(run=RUN)
    assert not place().exists("/bucket/run/models/checkpoint_latest.safetensors")


def test_local_work_does_not_load_the_library_of_urls() -> None:
    modules = ["cli.app", "workflows.plan.planning", "workflows.train.dispatch", "workflows.predict.prediction"]
    loads = "; ".join(f"import autoseg.{name}" for name in modules)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['fsspec'] = None; {loads}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("command", "name"), [("cancel", "run"), ("train", "log"), ("export", "fold")])
def test_arguments_that_take_no_url_say_so(command: str, name: str) -> None:
    with pytest.raises(RemoteError, match=f"autoseg {command} needs a local path for {name}, found faulty://bucket/x"):
        wrap(lambda **_: None, command)(**{name: Path("faulty://bucket/x")})


def test_a_url_that_is_refused_is_shown_without_its_password() -> None:
    with pytest.raises(RemoteError, match=r"found ssh://\.\.\.@host/x; copy"):
        wrap(lambda **_: None, "cancel")(run=Path("ssh://me:hunter2@host/x"))


def test_each_of_several_paths_may_be_a_url(node: Node, place: Place, tmp_path: Path) -> None:
    place().pipe_file("/bucket/run/a.nii.gz", b"1")
    place().pipe_file("/bucket/run/b.nii.gz", b"2")
    seen: list[Path] = []

    def view(image: Path, label_maps: list[Path]) -> None:
        with use_local(*label_maps):
            seen.extend(label_maps)
            assert [path.read_bytes() for path in label_maps[1:]] == [b"1", b"2"]

    given = [tmp_path, RUN / "a.nii.gz", RUN / "b.nii.gz"]
    wrap(view, "view")(image=tmp_path, label_maps=given)
    assert seen[0] == tmp_path


def test_local_paths_are_passed_on_as_they_are(tmp_path: Path) -> None:
    seen: list[object] = []
    wrap(lambda **options: seen.append(options))(run=tmp_path, init=None, fold=["0"])
    assert seen == [{"run": tmp_path, "init": None, "fold": ["0"]}]
    assert name_urls(f"{tmp_path}") == f"{tmp_path}"


def test_the_arguments_that_may_be_urls_are_those_of_the_commands() -> None:
    commands = [command.callback for command in app.registered_commands if command.callback is not None]
    parameters = {command.__name__: set(inspect.signature(command).parameters) for command in commands}
    assert {name: set(uses) - parameters[name] for name, uses in USES.items()} == {name: set() for name in USES}
