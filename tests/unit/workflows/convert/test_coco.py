"""Files of the form of COCO: what they list, and what a stranger may have written into them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.public_datasets import SIZE, build_tree, draw, save_picture

from autoseg.dataset.layouts import LAYOUTS
from autoseg.errors import AutosegError, DocumentError
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import read_label_map
from autoseg.workflows.convert.coco import Runs, decode_counts, decode_runs, group_annotations, match_coco
from autoseg.workflows.convert.converting import convert_dataset


def convert(source: Path, out: Path) -> None:
    convert_dataset(source, out, layout="coco", workers=1, progress=SilentProgress())


def change(source: Path, alter: Callable[[dict[str, Any]], None]) -> None:
    path = source / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    alter(content)
    path.write_text(json.dumps(content))


def test_categories_become_labels_and_small_objects_lie_on_large_ones(tmp_path: Path) -> None:
    convert(build_tree("coco", tmp_path / "source"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["labels"] == {
        "background": 0,
        "cell": 1,
        "nucleus": 2,
    }
    expected, objects = np.zeros((2, *SIZE), int)
    expected[0:6, 0:8], objects[0:6, 0:8] = 1, 1
    expected[3:9, 10:14], objects[3:9, 10:14] = 2, 2
    expected[1:5, 2:6], objects[1:5, 2:6] = 2, 3
    assert np.array_equal(read_label_map(tmp_path / "out" / "labelsTr" / "000000000009.png").array[0], expected)
    assert np.array_equal(read_label_map(tmp_path / "out" / "instancesTr" / "000000000009.png").array[0], objects)


def test_a_crowd_has_its_label_and_no_number_and_is_told(tmp_path: Path) -> None:
    source = build_tree("coco", tmp_path / "source")

    def gather(content: dict[str, Any]) -> None:
        lowest = min(entry["id"] for entry in content["categories"])
        for entry in content["annotations"]:
            entry["iscrowd"] = int(entry["category_id"] == lowest)

    change(source, gather)
    report = convert_dataset(source, tmp_path / "out", layout="coco", workers=1, progress=SilentProgress())
    labels, objects = (
        read_label_map(tmp_path / "out" / folder / "000000000009.png").array[0]
        for folder in ("labelsTr", "instancesTr")
    )
    assert (labels[0:6, 0:8] > 0).all()
    assert np.array_equal(objects > 0, labels == 2)
    assert np.unique(objects).tolist() == [0, 1, 2]
    notes = " ".join(report.list_notes())
    assert "masks hold several objects each (iscrowd) and have no number" in notes


def test_objects_without_a_pixel_are_told(tmp_path: Path) -> None:
    source = build_tree("coco", tmp_path / "source")

    def empty(content: dict[str, Any]) -> None:
        first, second, *_ = content["annotations"]
        first["segmentation"] = []  # a box alone, as detectors have it
        second["segmentation"] = [[900, 900, 910, 900, 910, 910]]

    change(source, empty)
    report = convert_dataset(source, tmp_path / "out", layout="coco", workers=1, progress=SilentProgress())
    assert "2 objects are left out, as they have no pixel" in " ".join(report.list_notes())


@pytest.mark.parametrize(
    ("name", "is_held_out"),
    [
        ("annotations/instances_test-dev2017.json", True),
        ("test/_annotations.coco.json", True),
        ("Testing/annotations.json", True),
        ("annotations/annotationsTest.json", True),
        ("annotations/instances_TESTSET.json", True),
        ("annotations/instances_testdev.json", True),
        ("testdata/annotations.json", True),
        ("minitest/annotations.json", True),
        ("annotations/instances_latest.json", False),
        ("contest/_annotations.coco.json", False),
        ("annotations/instances_testis.json", False),
        ("testicles/annotations.json", False),
    ],
)
def test_only_files_with_the_word_test_in_their_name_are_kept_apart(
    name: str, is_held_out: bool, tmp_path: Path
) -> None:
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(json.dumps({**content, "annotations": []}))
    save_picture(tmp_path / "a.png", draw(3))
    (case,) = match_coco(tmp_path, LAYOUTS["coco"][0], [name, "a.png"]).cases
    assert case.is_held_out == is_held_out


def test_greys_have_one_channel(tmp_path: Path) -> None:
    source = build_tree("coco", tmp_path / "source")
    for path in source.rglob("*.jpg"):
        save_picture(path, draw(3, channels=1))
    convert(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["channel_names"] == {"0": "image"}


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("061", [0, 6, 1]),
        ("061M", [0, 6, 1, 3]),
        ("0610", [0, 6, 1, 6]),
        ("011101010", [0, 1, 1, 2, 1, 3, 1, 4, 1]),
        ("0PP1", [0, 1024]),
    ],
)
def test_compressed_runs_are_those_of_the_reference_library(text: str, counts: list[int]) -> None:
    assert decode_counts(text, where="here") == counts


@pytest.mark.parametrize("text", ["0 1", "o" * 40, "\u4e00"])
def test_compressed_runs_that_no_library_writes_are_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="or a number of more than 32 bits"):
        decode_counts(text, where="here")


@pytest.mark.parametrize(
    "runs",
    [
        Runs(counts=[10**12, 5], size=(2, 3)),
        Runs(counts=[6], size=(3, 2)),
        Runs(counts=[2, 3], size=(2, 3)),
        Runs(counts="0K1", size=(2, 3)),
    ],
)
def test_runs_of_another_size_are_refused_before_they_are_expanded(runs: Runs) -> None:
    with pytest.raises(DocumentError, match=r"expected runs of an image of 2 x 3 pixels \(y, x\)"):
        decode_runs(runs, (1, 2, 3), where="here")


def name_other_file(content: dict[str, Any]) -> None:
    content["images"][0]["file_name"] = "../../../etc/passwd"


def drop_ids(content: dict[str, Any]) -> None:
    del content["images"][0]["id"]


def drop_categories(content: dict[str, Any]) -> None:
    content["categories"] = content["categories"][:1]


def write_infinity(content: dict[str, Any]) -> None:
    content["annotations"][0]["segmentation"] = [[0, 0, 1e999, 0, 5, 5]]


@pytest.mark.parametrize(
    ("alter", "text"),
    [
        (name_other_file, "lists the image '../../../etc/passwd', but there is no picture of this name"),
        (drop_ids, "does not have the form of COCO: images.0.id: Field required"),
        (write_infinity, "does not hold the files of coco"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name(
    alter: Callable[[dict[str, Any]], None], text: str, tmp_path: Path
) -> None:
    source = build_tree("coco", tmp_path / "source")
    (source / "annotations" / "instances_test2017.json").unlink()
    change(source, alter)
    with pytest.raises(AutosegError) as caught:
        convert(source, tmp_path / "out")
    assert text in str(caught.value)


def test_an_object_of_an_unknown_category_is_refused(tmp_path: Path) -> None:
    source = build_tree("coco", tmp_path / "source")
    (source / "annotations" / "instances_test2017.json").unlink()
    change(source, drop_categories)
    with pytest.raises(AutosegError, match="has the category 3, which is not listed"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("number", "name", "text"),
    [
        (
            18,
            "gland",
            r"instances_train2017\.json: the category 18 has the name 'gland', but it is called 'nucleus' in",
        ),
        (9, "nucleus", r"the category 9 has the name 'nucleus', as has the category 18; give every category a name"),
        (9, "background", r"the category 9 has the name 'background', which is no class of objects; give it another"),
    ],
)
def test_categories_that_would_become_wrong_labels_are_refused(
    number: int, name: str, text: str, tmp_path: Path
) -> None:
    source = build_tree("coco", tmp_path / "source")
    change(source, lambda content: content["categories"].append({"id": number, "name": name}))
    with pytest.raises(DocumentError, match=text):
        convert(source, tmp_path / "out")


def test_a_picture_of_a_format_that_no_dataset_has_is_refused(tmp_path: Path) -> None:
    source = build_tree("coco", tmp_path / "source")
    picture = source / "train2017" / "000000000025.jpg"
    picture.rename(picture.with_suffix(".webp"))
    path = source / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace("25.jpg", "25.webp"))
    with pytest.raises(AutosegError, match=r"25\.webp has an ending that cannot be read; convert it to PNG"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("outline", [[[1.0, 2.0, 3.0, 4.0]], [["a"] * 6], {"counts": [-1]}, None, 7])
def test_a_wrong_outline_is_a_problem_of_its_image_alone(outline: Any, tmp_path: Path) -> None:
    source = build_tree("coco", tmp_path / "source")
    listed = json.loads((source / "annotations" / "instances_train2017.json").read_text())
    number = listed["annotations"][0]["id"]
    case = next(image["file_name"] for image in listed["images"] if image["id"] == listed["annotations"][0]["image_id"])
    change(source, lambda content: content["annotations"][0].__setitem__("segmentation", outline))
    with pytest.raises(AutosegError) as caught:
        convert(source, tmp_path / "out")
    assert f"{Path(case).stem}: " in str(caught.value)
    assert f"annotation {number} has no outline that can be painted" in str(caught.value)
    written = {path.stem for path in (tmp_path / "out" / "labelsTr").iterdir()}
    assert written == {Path(image["file_name"]).stem for image in listed["images"]} - {Path(case).stem}
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_the_annotations_of_an_image_are_found_without_looking_at_those_of_others(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    annotations = [
        {"id": index, "image_id": index % 3, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2]]}
        for index in range(9)
    ]
    path.write_text(json.dumps({"images": [], "categories": [], "annotations": annotations}))
    groups = group_annotations(path)
    assert {image: [found.id for found in own] for image, own in groups.items()} == {
        0: [0, 3, 6],
        1: [1, 4, 7],
        2: [2, 5, 8],
    }
    assert group_annotations(path) is groups
