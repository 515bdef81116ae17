"""Libraries print nothing to the terminal, even where no cache folder can be written."""

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoseg.processes.library_output import TALKATIVE_LIBRARIES, redirect_library_messages, silence_libraries

# Matplotlib prints about its cache and fonts, and so does the program of fontconfig that it runs; Pillow about large
# pictures; nibabel about odd headers; tifffile about broken files; PyTorch's compiler; NumPy.
PROGRAM = r"""
import logging, sys, warnings
from pathlib import Path
from autoseg.processes.library_output import silence_libraries
silence_libraries()

from autoseg.training.monitoring import progress_picture
logging.getLogger("matplotlib.font_manager").warning("Matplotlib is building the font cache; this may take a moment.")

from PIL import Image
path = Path(sys.argv[1]) / "large.png"
Image.new("L", (64, 64)).save(path)
Image.MAX_IMAGE_PIXELS = 3000
Image.open(path).load()

import nibabel, numpy
header = nibabel.Nifti1Header()
header["pixdim"][1:4] = 0
nibabel.Nifti1Header(header.binaryblock)
numpy.float32(1e30) * numpy.float32(1e30)
logging.getLogger("nibabel.global").warning("pixdim[1,2,3] should be non-zero; setting 0 dims to 1")
logging.getLogger("tifffile").error("<tifffile.TiffPage 0 @8> missing data offset tag")

import blosc2, numexpr, SimpleITK, skimage.measure, tifffile, torch, torch.utils.tensorboard
logging.getLogger("torch._dynamo").warning("hit the recompile limit")
warnings.warn("a library's warning", UserWarning)
"""
FONT_PROGRAM = (
    "#!/bin/sh\necho 'Fontconfig error: No writable cache directories' >&2\n[ $1 = --help ] && echo ' --format'\n"
)


@pytest.mark.skipif(sys.platform == "win32", reason="the fake font program is a shell script")
def test_a_fresh_home_that_cannot_be_written_brings_no_line_to_the_terminal(tmp_path: Path) -> None:
    fonts = tmp_path / "fc-list"
    fonts.write_text(FONT_PROGRAM)
    fonts.chmod(0o755)
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"), "/proc/none")
    kept = {name: value for name, value in os.environ.items() if name not in {"TORCH_LOGS", "PYTHONWARNINGS"}}
    environment = kept | nowhere | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def _state_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in TALKATIVE_LIBRARIES}
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    yield
    logging.captureWarnings(capture=False)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("_state_restored")
def test_whoever_asks_for_messages_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_LOGS", "+dynamo")
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    before = warnings.showwarning
    silence_libraries()
    assert os.environ["TORCH_LOGS"] == "+dynamo"
    assert warnings.showwarning is before


@pytest.mark.usefixtures("_state_restored")
def test_messages_of_autoseg_itself_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    silence_libraries()
    logging.getLogger("autoseg.workflows").warning("a case was left out")
    logging.getLogger("nibabel.global").warning("pixdim")
    assert caplog.messages == ["a case was left out"]


def test_messages_of_c_libraries_go_to_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="autoseg.processes.library_output"), redirect_library_messages():
        os.write(2, b"HDF5-DIAG: error\n")
    assert capfd.readouterr().err == ""
    assert caplog.messages == ["HDF5-DIAG: error"]
