import subprocess
import sys


def test_measuring_and_preprocessing_load_neither_torch_nor_a_file_reader() -> None:
    code = (
        "import sys, autoseg.measurement, autoseg.preprocessing.cache\n"
        "print([name for name in ('torch', 'SimpleITK', 'nibabel', 'skimage') if name in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_a_finished_run_is_looked_at_without_the_libraries_of_the_workers() -> None:
    code = (
        "import sys, autoseg.workflows.plan.planning\n"
        "heavy = ('blosc2', 'scipy', 'cc3d', 'torch', 'SimpleITK', 'nibabel', 'skimage')\n"
        "print([name for name in heavy if name in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
