"""Options and markers that several tests share."""

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


@pytest.fixture
def data_folder(request: pytest.FixtureRequest) -> Path:
    """The folder of real datasets; tests that need it are skipped where there is none."""
    folder = Path(request.config.getoption("--data"))
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder}; name their folder with --data FOLDER")
    return folder
