"""`autoseg architectures`: the list, and what the networks cost for the patch of a run."""

import re
from pathlib import Path

import pytest
from builders.plans import build_configuration, build_plan

from autoseg.cli.choices import architectures
from autoseg.document import write_document
from autoseg.errors import OptionError
from autoseg.run_folder import RunFolder
from planners import ARCHITECTURES


def read_rows(output: str) -> dict[str, list[str]]:
    cells = [
        [cell.strip() for cell in re.split("[│|]", line)[1:-1]]
        for line in output.splitlines()
        if re.match("[│|]", line)
    ]
    return {row[0]: row[1:] for row in cells}


def test_every_architecture_is_listed_with_its_sentence_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    architectures()
    output = capsys.readouterr().out
    for name, architecture in ARCHITECTURES.items():
        assert f"{name} " in output
        assert architecture.sentence in output
        lines = [line for line in output.splitlines() if f"({architecture.source}" in line]
        assert any(str(architecture.year) in line for line in lines)


def test_the_networks_are_counted_and_measured_for_the_patch_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {name: ARCHITECTURES[name] for name in ("plain_unet", "u_net")}
    monkeypatch.setattr("planners.ARCHITECTURES", chosen)
    write_document(RunFolder(tmp_path).plan, build_plan({"3d_fullres": build_configuration((16, 16, 16))}))
    architectures(tmp_path, measure=True)
    output = capsys.readouterr().out
    assert "patch of 16 x 16 x 16 voxels (3d_fullres)" in output
    rows = read_rows(output)
    assert list(rows) == list(chosen)
    assert all(float(row[0]) > 0.5 and float(row[1]) > 0.1 and float(row[2]) >= 0 for row in rows.values())
    architectures(tmp_path)
    assert {name: row[:2] for name, row in rows.items()} == read_rows(capsys.readouterr().out)


def test_a_network_whose_margins_leave_nothing_of_the_patch_is_listed_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("planners.ARCHITECTURES", {"u_net_valid": ARCHITECTURES["u_net_valid"]})
    write_document(RunFolder(tmp_path).plan, build_plan({"3d_fullres": build_configuration((4, 64, 64))}))
    architectures(tmp_path)
    assert read_rows(capsys.readouterr().out) == {"u_net_valid": ["patch too small", ""]}


def test_networks_for_volumes_alone_are_left_out_of_the_costs_of_a_run_in_2d(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("planners.ARCHITECTURES", {name: ARCHITECTURES[name] for name in ("u_net", "h_dense_unet")})
    write_document(RunFolder(tmp_path).plan, build_plan({"2d": build_configuration((32, 32), data_of="2d")}))
    architectures(tmp_path)
    assert list(read_rows(capsys.readouterr().out)) == ["u_net"]


def test_a_time_needs_a_run() -> None:
    with pytest.raises(OptionError, match="--measure needs a run"):
        architectures(measure=True)
