"""The demo is the first thing that a new user sees."""

import json

import pytest
from builders.command_line import run_autoseg


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_segments_unseen_images_and_is_not_written_over(tmp_path):
    done = run_autoseg("demo", "demo", cwd=tmp_path)
    assert done.code == 0, done.err
    folder = tmp_path / "demo"
    summary = json.loads((folder / "predictions" / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] >= 0.85
    assert len(summary["metric_per_case"]) == 3
    for told in ("run.autoseg/plan.json", "checkpoint_final.safetensors", "predictions/summary.csv"):
        path = next(word for word in done.out.split() if word.endswith(told))
        assert (tmp_path / path).is_file()
    before = (folder / "run.autoseg" / "plan.json").stat().st_mtime_ns
    again = run_autoseg("demo", "demo", cwd=tmp_path)
    assert again.code == 1
    assert "demo holds an earlier demo; replace it with --overwrite" in again.err
    assert (folder / "run.autoseg" / "plan.json").stat().st_mtime_ns == before
