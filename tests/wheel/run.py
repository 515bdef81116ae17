"""Builds the wheel and runs the pipeline test against it, in a virtual environment that cannot see the sources.

Heavy dependencies are taken from the development environment (by a .pth file), so that only the wheel is installed
anew: what is tested is that the wheel holds everything of both packages that a run needs.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Builds, installs and tests; exits with the tests' status."""
    with tempfile.TemporaryDirectory(prefix="autoseg-wheel-") as name:
        work = Path(name)
        wheel = build_wheel(work / "dist")
        python = make_environment(work / "venv")
        run([python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", str(wheel)], cwd=work)
        check_origin(python, work)
        for folder in ("builders", "faults", "pipeline"):
            shutil.copytree(ROOT / "tests" / folder, work / "tests" / folder)
        shutil.copy(ROOT / "tests" / "conftest.py", work / "tests" / "conftest.py")
        shutil.copy(ROOT / "pyproject.toml", work / "pyproject.toml")
        # One thread for each of the processes that run side by side. Slow tests were run on the sources: they show how
        # long trainings behave, and need no file of the wheel that the others do not.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        }
        sys.exit(
            subprocess.run(
                [python, "-m", "pytest", "tests/pipeline", "-m", "not slow", "-n", "logical", "--dist", "loadfile"],
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


def make_environment(folder: Path) -> str:
    """A fresh environment that sees the dependencies of this one, but not the editable install of the sources."""
    venv.create(folder, with_pip=True)
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
