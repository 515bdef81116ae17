import json
import os
import shutil
from dataclasses import replace

import pytest

from autoseg.dataset import (
    Case,
    Dataset,
    DatasetRecord,
    allow_geometry_fixes,
    read_dataset,
    record_dataset,
    restore_dataset,
)
from autoseg.document import read_document, write_document
from autoseg.errors import DatasetError


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    root = tmp_path / "Dataset001_X"
    for name in ("imagesTr/a_0000.png", "imagesTr/b_0000.png", "labelsTr/a.png", "labelsTr/b.png", "splits_final.json"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    description = {"channel_names": {"0": "R"}, "labels": {"background": 0, "x": [1, 2], "y": 2, "ignore": 9}}
    description |= {"regions_class_order": [1, 2], "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(description))
    return read_dataset(root)


def test_a_dataset_comes_back_from_its_record(dataset, tmp_path):
    write_document(tmp_path / "record.json", record_dataset(dataset))
    record = read_document(tmp_path / "record.json", DatasetRecord)
    assert record == record_dataset(dataset)
    assert restore_dataset(record) == dataset


def test_a_run_remembers_that_geometry_is_fixed(dataset):
    fixed = allow_geometry_fixes(dataset)
    assert (dataset.fixes_geometry, fixed.fixes_geometry) == (False, True)
    record = record_dataset(fixed)
    assert record.fix_geometry
    assert record != record_dataset(dataset)
    assert restore_dataset(record) == fixed


def test_groups_beside_the_dataset_are_found(dataset):
    assert dataset.groups_file is None
    (dataset.root / "groups.json").touch()
    assert read_dataset(dataset.root).groups_file == dataset.root / "groups.json"


def test_paths_inside_the_dataset_are_relative_to_it(dataset, tmp_path):
    outside = tmp_path / "outside.png"
    outside.touch()
    cases = (dataset.cases[0], Case.from_paths("c", images=(outside,), label=None))
    record = record_dataset(replace(dataset, cases=cases))
    assert record.source == str(dataset.root)
    assert record.cases[0].images == ("imagesTr/a_0000.png",)
    assert record.cases[0].label == "labelsTr/a.png"
    assert record.cases[1].images == (str(outside),)
    assert record.cases[1].label is None
    assert restore_dataset(record).cases == cases


def test_a_dataset_that_has_gone_is_an_error_that_says_what_to_do(dataset):
    record = record_dataset(dataset)
    (dataset.root / "labelsTr" / "b.png").unlink()
    with pytest.raises(DatasetError, match=r"b\.png has gone"):
        restore_dataset(record)
    shutil.rmtree(dataset.root)
    with pytest.raises(DatasetError, match=r"has gone; put it back, write its new place into 'source'"):
        restore_dataset(record)


def test_files_that_have_changed_since_are_named(dataset):
    record = record_dataset(dataset)
    (dataset.root / "labelsTr" / "b.png").write_bytes(b"corrected")
    (note,) = restore_dataset(record).notes
    assert note.startswith("warning: files of 1 cases (b) have another size or time than when they were planned")


def test_a_copy_of_a_dataset_with_other_times_is_told_from_changed_files(dataset):
    record = record_dataset(dataset)
    for path in dataset.root.rglob("*.png"):
        os.utime(path, (1, 1))
    (note,) = restore_dataset(record).notes
    assert note.startswith(
        "warning: files of all 2 cases have another time, as in a copy, but no other size, than when"
    )
    (dataset.root / "labelsTr" / "b.png").write_bytes(b"corrected")
    (note,) = restore_dataset(record).notes
    assert "have another time, as in a copy, those of b also another size, than when they were planned" in note


def test_a_moved_dataset_is_found_at_its_new_place(dataset, tmp_path):
    record = record_dataset(dataset)
    moved = dataset.root.rename(tmp_path / "moved")
    restored = restore_dataset(record.model_copy(update={"source": str(moved)}))
    assert restored.cases[0].image_paths == (moved / "imagesTr" / "a_0000.png",)
    assert restored.splits_file == moved / "splits_final.json"
