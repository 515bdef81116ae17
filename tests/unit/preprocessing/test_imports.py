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


def test_small_objects_load_nothing_that_workers_have_not_loaded_in_advance() -> None:
    code = (
        "import importlib, sys\n"
        "import numpy as np\n"
        "from autoseg.workflows.plan.preprocessing import WORKER_MODULES\n"
        "for name in WORKER_MODULES: importlib.import_module(name)\n"
        "loaded = set(sys.modules)\n"
        "from autoseg.preprocessing.small_objects import keep_small_objects\n"
        "label_map = np.zeros((8, 8, 8), np.int16)\n"
        "label_map[5, 5, 5] = 1\n"
        "kept = keep_small_objects(label_map, np.zeros((4, 4, 4), np.int16), classes=((1,),))\n"
        "print(kept, sorted(set(sys.modules) - loaded))"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "1 []"
