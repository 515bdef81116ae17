import json
from pathlib import Path
from typing import Any

import pytest
from builders.listings import count_listings

from autoseg.dataset import Dataset, read_dataset, record_dataset, restore_dataset
from autoseg.errors import DatasetError

LABELS = {"background": 0, "tumour": 1}
DESCRIPTION: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": LABELS,
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
IMAGES = ("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz")
LABEL_FILES = ("labelsTr/a.nii.gz", "labelsTr/b.nii.gz")


def make(root: Path, description: dict | str | None = None, files: tuple[str, ...] = (*IMAGES, *LABEL_FILES)) -> Path:
    """Reading a dataset opens no image, so empty files will do."""
    root.mkdir(exist_ok=True)
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    content = DESCRIPTION if description is None else description
    (root / "dataset.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def change(**entries: Any) -> dict[str, Any]:
    return {key: value for key, value in {**DESCRIPTION, **entries}.items() if value is not ...}


def get_problems(root: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read_dataset(root)
    return "\n".join(problem.describe() for problem in caught.value.problems)


def list_cases(dataset: Dataset) -> dict[str, tuple[list[str], str]]:
    return {
        case.name: (
            [path.relative_to(dataset.root).as_posix() for path in case.image_paths],
            case.label_path.relative_to(dataset.root).as_posix(),
        )
        for case in dataset.cases
    }


def test_a_dataset_is_its_description_and_its_files(tmp_path):
    dataset = read_dataset(make(tmp_path / "Dataset001_X"))
    assert dataset.name == "Dataset001_X"
    assert dataset.root == tmp_path / "Dataset001_X"
    assert dataset.channel_names == ("CT",)
    assert dataset.file_ending == ".nii.gz"
    assert dataset.labels.class_names == ("tumour",)
    assert list_cases(dataset) == {
        "a": (["imagesTr/a_0000.nii.gz"], "labelsTr/a.nii.gz"),
        "b": (["imagesTr/b_0000.nii.gz"], "labelsTr/b.nii.gz"),
    }
    assert dataset.splits_file is None
    assert dataset.notes == ()


def test_splits_of_the_dataset_are_found(tmp_path):
    root = make(tmp_path, files=(*IMAGES, *LABEL_FILES, "splits_final.json"))
    assert read_dataset(root).splits_file == root / "splits_final.json"


def test_cases_are_sorted_and_channels_numbered(tmp_path):
    names = [f"imagesTr/{case}_{channel:04d}.png" for case in ("z", "y", "x") for channel in (1, 0)]
    labels = [f"labelsTr/{case}.png" for case in ("x", "y", "z")]
    root = make(
        tmp_path,
        change(channel_names={"0": "T1", "1": "T2"}, file_ending=".png", numTraining=3),
        (*names, *labels),
    )
    assert list_cases(read_dataset(root)) == {
        case: ([f"imagesTr/{case}_0000.png", f"imagesTr/{case}_0001.png"], f"labelsTr/{case}.png") for case in "xyz"
    }


def test_legacy_modality_names_the_channels(tmp_path):
    root = make(tmp_path, change(channel_names=..., modality={"0": "MR"}))
    assert read_dataset(root).channel_names == ("MR",)


def test_channels_may_have_numbers_as_names(tmp_path):
    files = [f"imagesTr/{case}_000{channel}.nii.gz" for case in "ab" for channel in (0, 1)]
    root = make(tmp_path, change(channel_names={"0": 0, "1": 1}), (*files, *LABEL_FILES))
    assert read_dataset(root).channel_names == ("0", "1")


def test_the_order_of_channel_names_is_that_of_the_file(tmp_path):
    files = [f"imagesTr/{case}_{channel:04d}.nii.gz" for case in "ab" for channel in (0, 1)]
    root = make(tmp_path, change(channel_names={"1": "T2", "0": "T1"}), (*files, *LABEL_FILES))
    dataset = read_dataset(root)
    assert dataset.channel_names == ("T2", "T1")
    assert any("ascending order" in note for note in dataset.notes)


def test_hidden_files_are_ignored(tmp_path):
    root = make(
        tmp_path, files=(*IMAGES, *LABEL_FILES, "imagesTr/._a_0000.nii.gz", "labelsTr/._a.nii.gz", "imagesTr/.DS_Store")
    )
    dataset = read_dataset(root)
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert dataset.notes == ()


def test_endings_may_be_in_capitals(tmp_path):
    root = make(
        tmp_path,
        change(file_ending=".NII.gz"),
        ("imagesTr/a_0000.NII.GZ", "imagesTr/b_0000.nii.gz", "labelsTr/a.Nii.gz", "labelsTr/b.nii.gz"),
    )
    dataset = read_dataset(root)
    assert dataset.file_ending == ".nii.gz"
    assert [case.name for case in dataset.cases] == ["a", "b"]


def test_an_image_of_one_channel_needs_no_number(tmp_path):
    root = make(tmp_path, files=("imagesTr/a.nii.gz", "imagesTr/b_0000.nii.gz", *LABEL_FILES))
    assert list_cases(read_dataset(root))["a"] == (["imagesTr/a.nii.gz"], "labelsTr/a.nii.gz")


def test_four_digits_at_the_end_of_a_name_are_no_channel_if_the_label_map_has_them(tmp_path):
    root = make(
        tmp_path,
        files=("imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz", "labelsTr/x_0000.nii.gz", "labelsTr/x_0001.nii.gz"),
    )
    assert [case.name for case in read_dataset(root).cases] == ["x_0000", "x_0001"]


def test_a_year_before_the_channel_belongs_to_the_name(tmp_path):
    root = make(
        tmp_path,
        files=(
            "imagesTr/x_2020_0000.nii.gz",
            "imagesTr/x_2021.nii.gz",
            "labelsTr/x_2020.nii.gz",
            "labelsTr/x_2021.nii.gz",
        ),
    )
    assert [case.name for case in read_dataset(root).cases] == ["x_2020", "x_2021"]


@pytest.mark.parametrize("suffix", ["", "_0000"])
def test_one_file_may_hold_all_channels(tmp_path, suffix):
    root = make(
        tmp_path,
        change(channel_names={"0": "R", "1": "G", "2": "B"}, file_ending=".png"),
        (f"imagesTr/a{suffix}.png", f"imagesTr/b{suffix}.png", "labelsTr/a.png", "labelsTr/b.png"),
    )
    assert [len(case.image_paths) for case in read_dataset(root).cases] == [1, 1]


def test_jpeg_images_have_png_label_maps(tmp_path):
    root = make(
        tmp_path,
        change(file_ending=".jpg"),
        ("imagesTr/a_0000.jpg", "imagesTr/b_0000.jpg", "labelsTr/a.png", "labelsTr/b.png"),
    )
    assert list_cases(read_dataset(root))["a"][1] == "labelsTr/a.png"


def test_missing_and_superfluous_channels_are_named(tmp_path):
    root = make(
        tmp_path,
        change(channel_names={"0": "T1", "1": "T2"}),
        (
            "imagesTr/a_0000.nii.gz",
            "imagesTr/b_0000.nii.gz",
            "imagesTr/b_0001.nii.gz",
            "imagesTr/b_0002.nii.gz",
            *LABEL_FILES,
        ),
    )
    problems = get_problems(root)
    assert "case a: channel 1 (T2) is missing: expected a_0001.nii.gz" in problems
    assert "case b: b_0002.nii.gz is superfluous: channels are numbered 0 to 1 (T1, T2)" in problems


def test_a_channel_that_exists_twice_is_named(tmp_path):
    root = make(tmp_path, files=(*IMAGES, *LABEL_FILES, "imagesTr/a.nii.gz"))
    assert "case a: channel 0 exists twice: a.nii.gz and a_0000.nii.gz" in get_problems(root)


def test_all_problems_are_reported_at_once(tmp_path):
    root = make(
        tmp_path,
        {"channel_names": [], "labels": {"x": 1, "y": 1}, "file_ending": ".nii.gz"},
        ("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz"),
    )
    problems = get_problems(root)
    for part in (
        "channel_names must map",
        "'background' with the value 0 is missing",
        "'x' and 'y' both",
        "case b: the label map",
    ):
        assert part in problems


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ((*LABEL_FILES, "imagestr/a_0000.nii.gz"), "the folder imagesTr is missing (did you mean 'imagestr'?)"),
        (IMAGES, "the folder labelsTr is missing"),
        ((*IMAGES, "labelsTr/a.nii.gz"), "case b: the label map labelsTr/b.nii.gz is missing"),
        (("imagesTr/a.nii", "imagesTr/b.nii", *LABEL_FILES), "no file ending in .nii.gz; it holds 2 x .nii"),
        (("imagesTr/readme.txt", *LABEL_FILES), "it holds no image at all"),
        ((IMAGES[0], LABEL_FILES[0]), "needs at least 2 labelled cases, found only a"),
    ],
)
def test_what_is_wrong_with_the_files_is_named(tmp_path, files, expected):
    assert expected in get_problems(make(tmp_path, files=files))


def test_missing_label_maps_are_not_repeated_where_their_folder_is_missing(tmp_path):
    assert get_problems(make(tmp_path, files=IMAGES)).count("\n") == 0


def test_links_that_lead_nowhere_are_named(tmp_path):
    root = make(tmp_path)
    (root / IMAGES[0]).unlink()
    (root / IMAGES[0]).symlink_to(tmp_path / "gone")
    (root / LABEL_FILES[1]).unlink()
    (root / LABEL_FILES[1]).symlink_to(tmp_path / "gone")
    problems = get_problems(root)
    assert "a_0000.nii.gz is a link to a file that does not exist" in problems
    assert "b.nii.gz is a link to a file that does not exist" in problems


def test_a_folder_without_description_is_no_dataset(tmp_path):
    assert "dataset.json is missing; check the path, or write one" in get_problems(tmp_path)
    assert get_problems(tmp_path).endswith("with: autoseg init FOLDER")
    assert "the folder does not exist" in get_problems(tmp_path / "nowhere")
    make(tmp_path / "Dataset001_X")
    assert "there is one in Dataset001_X: name that folder" in get_problems(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "line 1, column 2: not valid JSON"),
        ("[]", "must hold an object in braces, found list"),
        ('{"labels": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
    ],
)
def test_a_description_that_is_no_object_is_an_error(tmp_path, content, expected):
    assert expected in get_problems(make(tmp_path, content))


def test_a_byte_order_mark_does_no_harm(tmp_path):
    root = make(tmp_path)
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text("\ufeff" + text, encoding="utf-8")
    assert len(read_dataset(root).cases) == 2


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"labels": ...}, "'labels' is missing"),
        ({"channel_names": ...}, "'channel_names' is missing"),
        ({"labels": ..., "lables": LABELS}, "unknown key 'lables': did you mean 'labels'?"),
        (
            {"channel_names": ..., "chanel_names": {"0": "CT"}},
            "unknown key 'chanel_names': did you mean 'channel_names'?",
        ),
        ({"file_ending": ..., "file_endings": ".png"}, "unknown key 'file_endings': did you mean 'file_ending'?"),
        ({"file_ending": "nii.gzip"}, "file_ending 'nii.gzip' cannot be read (did you mean '.nii.gz'?)"),
        ({"file_ending": ".nigz"}, "(did you mean '.nii.gz'?)"),
        ({"file_ending": ".doc"}, "file_ending '.doc' cannot be read"),
        ({"file_ending": 3}, "file_ending 3 cannot be read"),
        ({"channel_names": {"0": 7.5}}, "channel_names must map"),
        ({"channel_names": {"0": True}}, "channel_names must map"),
        ({"channel_names": {"0": ""}}, "channel_names must map"),
        ({"channel_names": {"1": "CT"}}, "channel_names must map"),
        ({"channel_names": {}}, "channel_names must map"),
        (
            {"labels": {"background": 0, "r": [1, 2], "s": 2}, "region_class_order": [1, 2]},
            "unknown key 'region_class_order': did you mean 'regions_class_order'?",
        ),
        (
            {"labels": {"background": 0, "s": 2, "r": [1, 2]}, "regions_class_order": [2, 1]},
            "2 (s, r) is written as 1 (r); reorder them",
        ),
    ],
)
def test_what_is_wrong_with_the_keys_is_named(tmp_path, entries, expected):
    assert expected in get_problems(make(tmp_path, change(**entries)))


def test_other_unknown_keys_are_notes_with_a_suggestion(tmp_path):
    root = make(tmp_path, change(numTrainig=2, description="x", licence="y", overwrite_image_reader_writer="None", q=1))
    assert read_dataset(root).notes == (
        "dataset.json: unknown key 'numTrainig' is ignored (did you mean 'numTraining'?)",
        "dataset.json: unknown key 'q' is ignored",
    )


@pytest.mark.parametrize(("count", "notes"), [(2, 0), (7, 1), ("many", 1), (..., 0)])
def test_another_number_of_cases_is_only_a_note(tmp_path, count, notes):
    dataset = read_dataset(make(tmp_path, change(numTraining=count)))
    assert len(dataset.notes) == notes
    assert all("numTraining" in note for note in dataset.notes)


def test_unused_files_are_notes(tmp_path):
    root = make(tmp_path, files=(*IMAGES, *LABEL_FILES, "labelsTr/c.nii.gz", "imagesTr/d_0000.nii"))
    notes = read_dataset(root).notes
    assert "labelsTr/c.nii.gz has no image in imagesTr and is not used" in notes
    assert "imagesTr also holds images with other endings, which are not used: 1 x .nii" in notes


@pytest.mark.parametrize("ending", ["nii.gz", "NII.GZ", ".Nii.gz"])
def test_the_file_ending_may_lack_its_dot_and_have_letters_of_either_case(tmp_path, ending):
    assert read_dataset(make(tmp_path, change(file_ending=ending))).file_ending == ".nii.gz"


def test_label_maps_of_images_that_cannot_be_written_have_either_ending(tmp_path):
    images = ("imagesTr/a_0000.mnc", "imagesTr/b_0000.mnc")
    root = make(tmp_path, change(file_ending=".mnc"), (*images, "labelsTr/a.nii.gz", "labelsTr/b.mnc"))
    assert list_cases(read_dataset(root)) == {
        "a": (["imagesTr/a_0000.mnc"], "labelsTr/a.nii.gz"),
        "b": (["imagesTr/b_0000.mnc"], "labelsTr/b.mnc"),
    }
    (root / "labelsTr" / "b.nii.gz").touch()
    assert "case b: two label maps, b.nii.gz and b.mnc; remove one" in get_problems(root)


def test_header_and_voxels_in_two_files_have_the_ending_of_the_header(tmp_path):
    files = [f"imagesTr/{case}.{ending}" for case in "ab" for ending in ("par", "rec")]
    root = make(tmp_path, change(file_ending=...), (*files, *LABEL_FILES))
    assert read_dataset(root).file_ending == ".par"


def test_a_folder_in_place_of_an_image_is_named_with_what_to_do(tmp_path):
    root = make(tmp_path / "some")
    (root / "imagesTr" / "notes").mkdir()
    assert "imagesTr/notes is a folder and not used" in read_dataset(root).notes
    (root / "imagesTr" / "a_0000.nii.gz").unlink()
    (root / "imagesTr" / "a_0000").mkdir()
    assert "imagesTr/a_0000 is a folder; one file is read per channel: convert a series of DICOM" in get_problems(root)
    root = make(tmp_path / "all", change(file_ending=".dcm"), LABEL_FILES)
    (root / "imagesTr" / "other").mkdir(parents=True)
    assert "imagesTr/other is a folder; one file is read per channel" in get_problems(root)
    listed = {"a": {"images": ["imagesTr/other"], "label": "labelsTr/a.nii.gz"}}
    (root / "dataset.json").write_text(json.dumps(change(dataset=listed)))
    assert "imagesTr/other is a folder; one file is read per channel: convert a series of DICOM" in get_problems(root)


def test_a_missing_file_ending_is_taken_from_the_files(tmp_path):
    dataset = read_dataset(make(tmp_path / "one", change(file_ending=...)))
    assert dataset.file_ending == ".nii.gz"
    assert dataset.notes == ("dataset.json: file_ending is missing; '.nii.gz' was taken from the files",)
    root = make(tmp_path / "two", change(file_ending=...), (*IMAGES, *LABEL_FILES, "imagesTr/c.png"))
    assert "their endings are .nii.gz, .png" in get_problems(root)
    root = make(tmp_path / "none", change(file_ending=...), ("imagesTr/readme", *LABEL_FILES))
    assert "their endings are none that can be read" in get_problems(root)
    root = make(
        tmp_path / "pair",
        change(file_ending=...),
        ("imagesTr/a.hdr", "imagesTr/a.img", "imagesTr/b.hdr", "imagesTr/b.img", "labelsTr/a.hdr", "labelsTr/b.hdr"),
    )
    assert read_dataset(root).file_ending == ".hdr"


def test_paths_may_be_listed(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("PICTURES", str(tmp_path / "elsewhere"))
    listed = {
        "second": {"images": ["data/s0.nii.gz"], "label": "data/s.nii.gz"},
        "first": {"images": ["$PICTURES/f0.nii.gz"], "label": str(tmp_path / "elsewhere" / "f.nii.gz")},
    }
    for name in ("f0", "f"):
        (tmp_path / "elsewhere" / f"{name}.nii.gz").touch()
    root = make(tmp_path / "x", change(dataset=listed), ("data/s0.nii.gz", "data/s.nii.gz"))
    second, first = read_dataset(root).cases
    assert (second.name, second.image_paths) == ("second", (root / "data" / "s0.nii.gz",))
    assert first.image_paths == (tmp_path / "elsewhere" / "f0.nii.gz",)
    assert first.label_path == tmp_path / "elsewhere" / "f.nii.gz"


def test_what_is_wrong_with_listed_paths_is_named(tmp_path):
    listed = {
        "a": {"images": ["a0.nii.gz"], "label": "gone.nii.gz"},
        "b": {"images": ["a0.nii.gz", "a1.nii.gz"], "label": "a.txt"},
        "c": {"images": [], "label": "a.nii.gz"},
        "d": "a0.nii.gz",
    }
    files = ("a0.nii.gz", "a1.nii.gz", "a.nii.gz", "a.txt")
    problems = get_problems(make(tmp_path, change(dataset=listed, channel_names={"0": "X", "1": "Y"}), files))
    assert f"case a: {tmp_path / 'gone.nii.gz'} does not exist" in problems
    assert "case a: expected 2 image files, one for each of X, Y, found 1" in problems
    assert f"case b: the ending of {tmp_path / 'a.txt'} cannot be read" in problems
    assert "case c: its entry in 'dataset' of dataset.json must have images" in problems
    assert "case d: its entry in 'dataset' of dataset.json must have images" in problems
    assert "dataset must map case names" in get_problems(make(tmp_path, change(dataset=["a"])))


DECATHLON: dict[str, Any] = {
    "name": "Hippocampus",
    "relase": "1.0",
    "tensorImageSize": "3D",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
    "numTraining": 2,
    "numTest": 1,
    "training": [
        {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
        {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
    ],
    "test": ["./imagesTs/c.nii.gz"],
}


def test_the_layout_of_the_decathlon_is_read(tmp_path):
    files = ("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", "imagesTr/._a.nii.gz", *LABEL_FILES)
    dataset = read_dataset(make(tmp_path, DECATHLON, files))
    assert dataset.channel_names == ("MRI",)
    assert dataset.file_ending == ".nii.gz"
    assert dataset.labels.class_names == ("Anterior", "Posterior")
    assert dataset.labels.declared_count == 3
    assert dataset.notes == ()
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert list_cases(dataset) == {
        case: ([f"imagesTr/{case}.nii.gz"], f"labelsTr/{case}.nii.gz") for case in ("a", "b")
    }


def test_the_decathlon_may_hold_all_channels_in_one_file(tmp_path):
    description = {**DECATHLON, "modality": {"0": "FLAIR", "1": "T1w"}}
    dataset = read_dataset(make(tmp_path, description, ("imagesTr/a.nii.gz", "imagesTr/b.nii.gz", *LABEL_FILES)))
    assert [len(case.image_paths) for case in dataset.cases] == [1, 1]


def test_the_decathlon_may_be_converted_to_channel_files(tmp_path):
    description = {**DECATHLON, "modality": {"0": "FLAIR", "1": "T1w"}}
    files = tuple(f"imagesTr/{case}_{channel:04d}.nii.gz" for case in ("a", "b", "aa") for channel in (0, 1))
    cases = list_cases(read_dataset(make(tmp_path, description, (*files, *LABEL_FILES))))
    assert cases["a"][0] == ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"]
    assert sorted(cases) == ["a", "b"]


def test_a_folder_is_listed_once_for_the_channels_of_all_listed_images(tmp_path, monkeypatch):
    description = {**DECATHLON, "modality": {"0": "FLAIR", "1": "T1w"}}
    files = tuple(f"imagesTr/{case}_{channel:04d}.nii.gz" for case in ("a", "b") for channel in (0, 1))
    root = make(tmp_path, description, (*files, *LABEL_FILES))
    listings = count_listings(monkeypatch)
    assert [len(case.image_paths) for case in read_dataset(root).cases] == [2, 2]
    assert listings[root / "imagesTr"] == 1


def test_what_is_wrong_with_a_list_of_training_images_is_named(tmp_path):
    description = {**DECATHLON, "training": [*DECATHLON["training"], DECATHLON["training"][0], {"image": "x"}]}
    problems = get_problems(make(tmp_path, description, ("imagesTr/b.nii.gz", *LABEL_FILES)))
    assert "case b: is listed 2 times" in problems
    assert f"case a: {tmp_path / 'imagesTr' / 'a.nii.gz'} does not exist" in problems
    assert "every entry must have image and label, 1 of 4 have not, such as {'image': 'x'}" in problems


def test_a_training_list_beside_a_file_ending_is_ignored_as_by_nnunet(tmp_path):
    root = make(tmp_path, change(training=[{"image": "./imagesTr/gone.nii.gz", "label": "./labelsTr/gone.nii.gz"}]))
    assert [case.name for case in read_dataset(root).cases] == ["a", "b"]


@pytest.mark.real_data
def test_real_datasets_are_read_without_false_alarms(data_folder):
    datasets = {path.name: read_dataset(path) for path in sorted(data_folder.glob("Dataset*"))}
    tumours = datasets.pop("Dataset005_BrainTumour")
    assert datasets
    assert [dataset.notes for dataset in datasets.values()] == [()] * len(datasets)
    # Necrosis and solid tumour are both the core that does not take up contrast agent: no order of regions parts them.
    assert tumours.notes == ("dataset.json: 1 and 3 belong to the same regions, so that predictions hold 1 for both",)
    assert tumours.labels.has_regions
    assert tumours.labels.region_write_values == (2, 1, 4)


@pytest.mark.parametrize(
    ("images", "labels"),
    [(".jpg", ".png"), (".jpg", ".tif"), (".jpeg", ".bmp"), (".png", ".tif"), (".nii.gz", ".nrrd"),
     (".nii.gz", ".nii"), (".mha", ".nii.gz"), (".nii.gz", ".hdr")],
)  # fmt: skip
def test_a_label_map_may_have_another_ending_if_it_is_the_only_one_of_its_case(tmp_path, images, labels):
    files = [f"imagesTr/{case}_0000{images}" for case in "ab"] + [f"labelsTr/{case}{labels}" for case in "ab"]
    files += [f"labelsTr/{case}.img" for case in "ab" if labels == ".hdr"]
    dataset = read_dataset(make(tmp_path, change(file_ending=images), tuple(files)))
    assert list_cases(dataset)["b"] == ([f"imagesTr/b_0000{images}"], f"labelsTr/b{labels}")
    usual = ".png" if images in (".jpg", ".jpeg") else images
    expected = f"2 cases (a, b): labelsTr/*{labels} is used, though it does not end in {usual}"
    assert dataset.notes == (() if labels == usual else (expected,))


def test_a_label_map_of_the_usual_ending_is_taken_before_all_others(tmp_path):
    dataset = read_dataset(make(tmp_path, files=(*IMAGES, *LABEL_FILES, "labelsTr/a.png", "labelsTr/a.nrrd")))
    assert list_cases(dataset)["a"][1] == "labelsTr/a.nii.gz"
    assert dataset.notes == ()


def test_two_label_maps_of_other_endings_are_a_problem(tmp_path):
    root = make(tmp_path, files=(*IMAGES, LABEL_FILES[1], "labelsTr/a.nrrd", "labelsTr/a.mha"))
    assert "case a: two label maps, a.mha and a.nrrd; remove one" in get_problems(root)


def test_label_maps_in_jpeg_are_refused_with_the_reason(tmp_path):
    files = ("imagesTr/a.jpg", "imagesTr/b.jpg", "labelsTr/a.jpg", "labelsTr/b.jpg")
    problems = get_problems(make(tmp_path, change(file_ending=".jpg"), files))
    assert "labelsTr holds 2 x JPEG (a.jpg), which changes label values on saving; save label maps as PNG" in problems


def test_folders_named_like_dicom_files_are_images(tmp_path):
    root = make(tmp_path / "x", change(file_ending=".dcm"), LABEL_FILES)
    for name in "ab":
        (root / "imagesTr" / f"{name}_0000.dcm").mkdir(parents=True)
    dataset = read_dataset(root)
    assert [case.image_paths for case in dataset.cases] == [(root / "imagesTr" / f"{name}_0000.dcm",) for name in "ab"]
    assert not dataset.notes
    assert restore_dataset(record_dataset(dataset)) == dataset


TERM = {"scheme": "SCT", "value": "108369006", "meaning": "Neoplasm"}


def test_terms_of_labels_are_kept(tmp_path):
    dataset = read_dataset(make(tmp_path, change(terms={"tumour": {"type": TERM}})))
    assert dataset.terms["tumour"].type.value == "108369006"
    assert restore_dataset(record_dataset(dataset)) == dataset


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"tumor": {"type": TERM}}, "terms: no label has the name 'tumor' (did you mean 'tumour'?)"),
        ({"tumour": TERM}, "terms: tumour: type"),
        ({"tumour": {"type": TERM | {"value": "a code that is too long"}}}, "terms: tumour: type.value"),
        (["tumour"], "terms must map names of labels to terms, found ['tumour']"),
    ],
)
def test_wrong_terms_are_named(tmp_path, terms, expected):
    assert expected in get_problems(make(tmp_path, change(terms=terms)))
