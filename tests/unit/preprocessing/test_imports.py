import subprocess
import sys


def test_measuring_and_preprocessing_load_neither_torch_nor_a_file_reader() -> None:
    code = (
        "import sys, autoseg.measurement, autoseg.preprocessing.cache\n"
        "print([name for name in ('torch', 'SimpleITK', 'nibabel', 'skimage') if name in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
