"""Options and markers that several tests share."""

import gc
import locale
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.hosts import HOST

from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.workflows.plan.host_speed import find_host_speed

REPOSITORY = Path(__file__).parents[1]
STARTING_LOCALE = locale.setlocale(locale.LC_ALL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-plans",
        default=REPOSITORY.parent / "shared" / "reference" / "plans",
        metavar="FOLDER",
        help="plans of the reference planner to compare with",
    )
    parser.addoption(
        "--reference-models",
        default=REPOSITORY.parent / "shared" / "reference" / "models",
        metavar="FOLDER",
        help="result folders of nnU-Net, with its predictions, to compare with",
    )
    parser.addoption(
        "--data",
        default=REPOSITORY.parent / "shared" / "data",
        metavar="FOLDER",
        help="real datasets in the raw layout of nnU-Net",
    )
    parser.addoption(
        "--peer",
        default=Path.home() / ".cache" / "autoseg-peer",
        metavar="FOLDER",
        help="virtual environment in which nnU-Net v2 is installed",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests go first, so that none of them is left to one core at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Loads all tests without searching for garbage, and keeps what they are out of every search to come.

    Else each takes most of a second, and tests of what frees memory ask for several.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cached measurements stay away from those of the user; the speed of the CPU need not be measured for each plan."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    find_host_speed(find_measurement_cache("host_speed"), measure=lambda: HOST)


@pytest.fixture(autouse=True)
def own_locale() -> Iterator[None]:
    """Tests and fixtures that write VTK files or DICOM slices with ITK change the locale of the process for others."""
    locale.setlocale(locale.LC_ALL, STARTING_LOCALE)
    yield
    locale.setlocale(locale.LC_ALL, STARTING_LOCALE)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Variables that a library sets while a test runs are removed: commands of later tests would need a new process."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def require_folder(request: pytest.FixtureRequest, option: str, content: str) -> Path:
    """The folder that an option names; a test that needs it is skipped where there is none."""
    folder = Path(request.config.getoption(option))
    if not folder.is_dir():
        pytest.skip(f"no {content} at {folder}; name their folder with {option} FOLDER")
    return folder


@pytest.fixture
def data_folder(request: pytest.FixtureRequest) -> Path:
    """The folder of real datasets."""
    return require_folder(request, "--data", "real datasets")


@pytest.fixture
def model_folder(request: pytest.FixtureRequest) -> Path:
    """The folder of nnU-Net's results."""
    return require_folder(request, "--reference-models", "results of nnU-Net")


@pytest.fixture
def peer_folder(request: pytest.FixtureRequest) -> Path:
    """An environment with nnU-Net; tests that need it are skipped where there is none."""
    folder = Path(request.config.getoption("--peer"))
    if not (folder / "bin" / "nnUNetv2_predict_from_modelfolder").is_file():
        pytest.skip(f"nnU-Net is not installed in {folder}; name its environment with --peer FOLDER")
    return folder
