"""Builds the wheel and runs the pipeline test against it, in a virtual environment that cannot see the sources.

Heavy dependencies are taken from the development environment (by a .pth file), so that only the wheel is installed
anew. What is tested is that the wheel holds every file of both packages as it is in the sources, on which all tests
were run, and that the installed package plans, trains, predicts, evaluates, converts and reports.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("autoseg", "planners")
PIPELINE_TESTS = ("test_convert.py", "test_init.py", "test_pipeline.py", "test_report.py")


def main() -> None:
    """Builds, installs and tests; exits with the tests' status."""
    with tempfile.TemporaryDirectory(prefix="autoseg-wheel-") as name:
        work = Path(name)
        wheel = build_wheel(work / "dist")
        check_content(wheel)
        python = make_environment(work / "venv")
        install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "-q"]
        run([*install, "--no-deps", "--force-reinstall", str(wheel)], cwd=work)
        check_origin(python, work)
        for folder in ("builders", "faults", "pipeline"):
            shutil.copytree(ROOT / "tests" / folder, work / "tests" / folder)
        shutil.copy(ROOT / "tests" / "conftest.py", work / "tests" / "conftest.py")
        shutil.copy(ROOT / "pyproject.toml", work / "pyproject.toml")
        # One thread for each of the processes that run side by side.
        tests = [f"tests/pipeline/{name}" for name in PIPELINE_TESTS]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        }
        sys.exit(
            subprocess.run(
                [python, "-m", "pytest", *tests, "-n", "logical", "--dist", "loadfile", "--no-loadscope-reorder"],
                cwd=work,
                env=environment,
                check=False,
            ).returncode
        )


def build_wheel(folder: Path) -> Path:
    """Builds the wheel with the installed backend, without the network."""
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)], cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_content(wheel: Path) -> None:
    """Fails unless the wheel holds every file of both packages as it is in the sources."""
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    sources = {str(path.relative_to(ROOT)): path for path in files if path.parent.name != "__pycache__"}
    with zipfile.ZipFile(wheel) as content:
        held = {name: content.read(name) for name in content.namelist() if name.partition("/")[0] in PACKAGES}
    wrong = [
        name for name in sources.keys() | held if name not in sources or held.get(name) != sources[name].read_bytes()
    ]
    if wrong or not held:
        sys.exit(f"the wheel lacks these files of the packages, or holds others: {sorted(wrong)}")


def make_environment(folder: Path) -> str:
    """A fresh environment that sees the dependencies of this one, but not the editable install of the sources."""
    venv.create(folder, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    dependencies = sysconfig.get_path("purelib")
    # A path line in a .pth file adds the folder without running its own .pth files, hence without the sources.
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    return str(folder / "bin" / "python")


def check_origin(python: str, work: Path) -> None:
    """Fails unless both packages come from the wheel."""
    code = "import autoseg, planners; print(autoseg.__file__, planners.__file__)"
    out = subprocess.run([python, "-c", code], cwd=work, check=True, capture_output=True, text=True).stdout
    for origin in out.split():
        if not Path(origin).is_relative_to(work):
            sys.exit(f"expected the wheel's packages, found {origin}")


def run(command: list[str], *, cwd: Path) -> None:
    """Runs a command and stops at its failure."""
    subprocess.run(command, cwd=cwd, check=True)


if __name__ == "__main__":
    main()
