"""`autoseg architectures`: the list, and what the networks cost for the patch of a run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from builders.labels import build_labels
from builders.objects import CELLS
from builders.plans import build_configuration, build_plan

from autoseg.cli.choices import architectures
from autoseg.document import write_document
from autoseg.errors import OptionError
from autoseg.network_cost import NetworkCost
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


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are planned, but neither built nor timed."""
    cost = NetworkCost(
        kept_bytes=0,
        parameter_count=2_000_000,
        parameter_bytes=8_000_000,
        multiply_adds=6_000_000_000,
        matrix_multiply_adds=0,
        convolutions=(),
        normalized_elements=0,
        output_elements=0,
    )
    monkeypatch.setattr("autoseg.workflows.plan.planning.find_network_cost", lambda *_: cost)
    monkeypatch.setattr("autoseg.networks.throughput.time_window", lambda *_: 0.003)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("patch_voxels", [(64, 64), (16, 32, 32)])
def test_every_architecture_that_a_plan_may_choose_has_one_row(
    patch_voxels: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "2d" if len(patch_voxels) == 2 else "3d_fullres"
    write_document(RunFolder(tmp_path).plan, build_plan({name: build_configuration(patch_voxels, data_of=name)}))
    architectures(tmp_path, measure=True)
    rows = read_rows(capsys.readouterr().out)
    volumes = {"h_dense_unet"} if name == "2d" else set()
    assert list(rows) == [each for each in ARCHITECTURES if each not in volumes | {"mask_rcnn"}]
    assert all(row == ["2.00", "3.00", "3"] for each, row in rows.items() if each != "u_net_valid")


@pytest.mark.usefixtures("counted")
def test_networks_that_find_objects_are_counted_for_a_run_that_tells_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("planners.ARCHITECTURES", {"mask_rcnn": ARCHITECTURES["mask_rcnn"]})
    plan = build_plan({"2d": build_configuration((64, 64), data_of="2d")}, labels=CELLS.target_labels, instances=CELLS)
    write_document(RunFolder(tmp_path).plan, plan)
    architectures(tmp_path)
    assert read_rows(capsys.readouterr().out) == {"mask_rcnn": ["2.00", "3.00"]}


@pytest.mark.usefixtures("counted")
def test_a_network_that_a_plan_cannot_have_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    impossible = replace(ARCHITECTURES["mask_rcnn"], name="other", needs_instances=False)
    monkeypatch.setattr("planners.ARCHITECTURES", {"other": impossible, "u_net": ARCHITECTURES["u_net"]})
    plan = build_plan(
        {"2d": build_configuration((64, 64), data_of="2d", network={"output_channels": 2})},
        labels=build_labels({"liver": (1,)}),
    )
    write_document(RunFolder(tmp_path).plan, plan)
    architectures(tmp_path)
    output = capsys.readouterr().out
    words = " ".join(" ".join(line.split("│")[2].split()) for line in output.splitlines() if line.startswith("│"))
    assert words.startswith("not for this plan: mask_rcnn finds separate objects")
    assert read_rows(output)["u_net"] == ["2.00", "3.00"]


def test_a_time_needs_a_run() -> None:
    with pytest.raises(OptionError, match="--measure needs a run"):
        architectures(measure=True)
