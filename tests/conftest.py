"""Options and markers that several tests share."""

import locale
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-plans",
        default=REPOSITORY.parent / "shared" / "reference" / "plans",
        metavar="FOLDER",
        help="plans of the reference planner to compare with",
    )
    parser.addoption(
        "--data",
        default=REPOSITORY.parent / "shared" / "data",
        metavar="FOLDER",
        help="real datasets in the raw layout of nnU-Net",
    )


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Measurements that prediction remembers stay away from those of the user."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def own_locale() -> Iterator[None]:
    """Tests that use ITK's VTK files by themselves change the locale of the process, which others must not see."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture
def data_folder(request: pytest.FixtureRequest) -> Path:
    """The folder of real datasets; tests that need it are skipped where there is none."""
    folder = Path(request.config.getoption("--data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder}; name their folder with --data FOLDER")
    return folder
