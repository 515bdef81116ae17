"""The installed commands write pages: templates and licence are in the wheel."""

from pathlib import Path

from builders.balls import make_case, save
from builders.command_line import run_autoseg


def test_a_trained_run_becomes_one_page(trained_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    for state in ("written", "unchanged"):
        done = run_autoseg("report", trained_run, "--out", out)
        assert done.code == 0, done.err
        assert f"{state}: {out}" in done.out
    text = out.read_text(encoding="utf-8")
    assert '<section id="cases">' in text
    assert "<svg" in text
    assert "data:image/webp;base64," in text


def test_images_are_viewed_whatever_run_they_are_of(tmp_path: Path) -> None:
    image, label_map = make_case(0)
    paths = [save(tmp_path / f"{name}.nii.gz", array) for name, array in (("image", image), ("labels", label_map))]
    done = run_autoseg("view", *paths, "--no-open", "--out", tmp_path / "view.html")
    assert done.code == 0, done.err
    assert "<h1>image</h1>" in (tmp_path / "view.html").read_text(encoding="utf-8")
