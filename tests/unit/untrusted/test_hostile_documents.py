"""Each document that may come from a stranger, broken in every way of the tables: a named error or the right result.

Every reading is limited to 2 GiB more memory and 20 seconds; nothing outside of its folder changes.
"""

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pytest
import tifffile
import torch
from builders.fingerprints import build_fingerprint
from builders.folds import SPLITS, build_checkpoint_description
from builders.hostile_documents import (
    BAD_NAMES,
    ENTRIES,
    GOOD_NAMES,
    JSON_FILES,
    JSON_TEXTS,
    OVERSIZED_PLANS,
    PLAN_FIELDS,
    PLANS_OF_MANY_STAGES,
    WEIGHTS,
    ZIP_FILES,
    Payload,
    list_changes,
    set_field,
    write_compressed_checkpoint,
    write_json,
    write_zip,
)
from builders.nnunet_models import build_foreign_dataset, build_foreign_plans, write_foreign_model
from builders.plans import build_configuration, build_plan, build_transforms
from builders.selections import build_selection
from safetensors.torch import load_file, save_file

from autoseg.dataset.folds import read_foreign_splits
from autoseg.dataset.groups import read_groups
from autoseg.dataset.reading import read_dataset
from autoseg.dataset.record import DatasetRecord, record_dataset, restore_dataset
from autoseg.document import Document, read_document
from autoseg.errors import AutosegError, DeviceError, DocumentError, ExchangeError
from autoseg.exchange.archives import unpack_archive
from autoseg.exchange.model_file import ModelRecord, SharedConfiguration, read_model_record
from autoseg.exchange.nnunet_checkpoint import read_nnunet_checkpoint
from autoseg.exchange.nnunet_folders import open_nnunet_model
from autoseg.exchange.nnunet_import import import_plan
from autoseg.inference.model import load_network
from autoseg.networks import build_network, write_weights
from autoseg.networks.cost import count_cost
from autoseg.networks.memory_limits import check_prediction_memory, check_training_memory
from autoseg.plan import Plan
from autoseg.postprocessing.rules import LargestComponent
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import FoldFolder, RunFolder
from autoseg.runtime.provenance import read_versions
from autoseg.training.checkpoint import read_description
from autoseg.volume_io import read_image
from autoseg.workflows.exchange.importing import import_model
from autoseg.workflows.predict.prediction_folder import PredictionRecord
from autoseg.workflows.select.model_choice import resolve_models
from autoseg.workflows.select.selection_document import Member

CPU: Final = torch.device("cpu")
NAMES: Final = ("a", "b", "c", "d")
MOST_CHANGES: Final = 120
LONGEST_MESSAGE: Final = 20_000
MOST_BYTES: Final = 2 * 2**30
PLAN: Final = build_plan(
    {
        "3d_fullres": build_configuration(
            (16, 16, 16),
            training={
                "transforms": build_transforms(
                    spatial={}, blur={}, low_resolution={}, gamma={}, mirror={"axes": (0, 1, 2)}
                )
            },
        )
    }
)
RULE: Final = LargestComponent(name="liver", values=(5,))
pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder for hostile files; memory is limited, and beside the folder nothing may change."""
    inside = tmp_path / "beside" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "x").write_text("a user's file")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MOST_BYTES, before[1]))
    yield inside
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "x"]
    assert [path.name for path in inside.parent.iterdir()] == ["inside"]
    assert (tmp_path / "x").read_text() == "a user's file"


@pytest.fixture(scope="module")
def foreign_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign_model(tmp_path_factory.mktemp("results"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One document of a folder, its right content, what reads it, and what a message calls it."""

    path: Path
    content: Any
    read: Callable[[], Any]
    shown: str = ""
    is_inside: bool = False

    @property
    def pattern(self) -> str:
        return self.shown or re.escape(self.path.stem)


def make_dataset(place: Path, **entries: Any) -> Target:
    root = place / "D"
    for name in NAMES:
        for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{name}{ending}").touch()
    described = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "y": [1, 2], "x": 1}, "numTraining": 4}
    content = described | {"regions_class_order": [2, 1], "file_ending": ".nii.gz"} | entries
    return Target(path=root / "dataset.json", content=content, read=lambda: record_dataset(read_dataset(root)))


def make_listed_dataset(place: Path) -> Target:
    cases = {name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"} for name in NAMES}
    return make_dataset(place, dataset=cases)


def make_decathlon(place: Path) -> Target:
    pairs = [{"image": f"imagesTr/{name}_0000.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in NAMES]
    made = make_dataset(place, training=pairs, modality={"0": "MR"})
    kept = {key: value for key, value in made.content.items() if key not in ("file_ending", "channel_names")}
    return replace(made, content=kept)


def make_document(place: Path, name: str, document: Document) -> Target:
    path, kind = place / name, type(document)
    return Target(path=path, content=json.loads(document.model_dump_json()), read=lambda: read_document(path, kind))


def make_plan(place: Path) -> Target:
    made = make_document(place, "plan.json", PLAN)

    def read() -> None:
        for name, configuration in read_document(made.path, Plan).configurations.items():
            check_training_memory(configuration, name, CPU, count=count_cost)
            check_prediction_memory(configuration, name, CPU, count=count_cost, network_count=5)

    return replace(made, read=read)


def make_record(place: Path) -> Target:
    dataset = make_dataset(place)
    write_json(dataset.path, dataset.content)
    made = make_document(place, "dataset.json", record_dataset(read_dataset(dataset.path.parent)))
    return replace(made, read=lambda: restore_dataset(read_document(made.path, DatasetRecord)))


def make_foreign_splits(place: Path) -> Target:
    path = place / "splits_final.json"
    content = [{"train": list(fold.training), "val": list(fold.validation)} for fold in SPLITS.folds]
    return Target(path=path, content=content, read=lambda: read_foreign_splits(path, NAMES))


def make_groups(place: Path) -> Target:
    path = place / "groups.json"
    content = {"a": "p", "b": "p", "c": "q", "d": 7}
    return Target(path=path, content=content, read=lambda: read_groups(path, NAMES))


def make_selection(place: Path) -> Target:
    run = RunFolder(place / "run")
    write_json(run.plan, json.loads(PLAN.model_dump_json()))
    checkpoint = run.fold("3d_fullres", "0").final_checkpoint
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    member = Member(configuration="3d_fullres", folds=("0",), weights_sha256=("0" * 64,))
    content = json.loads(build_selection((member,), (RULE,)).model_dump_json())

    def read() -> None:
        resolve_models(run, configuration=None, folds=None, postprocessing=True, progress=SilentProgress())

    return Target(path=run.selection, content=content, read=read)


def make_prediction(place: Path) -> Target:
    record = PredictionRecord(
        autoseg_version="0",
        model="x",
        images="y",
        configuration="3d_fullres",
        folds=("0",),
        weights_sha256=("0",),
        mirroring=True,
        step_fraction=0.5,
        number_type="float32",
        probabilities=False,
        postprocessing=(RULE,),
        outputs={"a.nii.gz": "a_0000.nii.gz"},
        versions=read_versions(),
    )
    return make_document(place, "prediction.json", record)


def make_model_file(place: Path) -> Target:
    record = ModelRecord(
        autoseg_version="0",
        dataset_name="x",
        trained_with=(),
        licence=None,
        class_names={"1": "x"},
        configurations={"3d_fullres": SharedConfiguration(folds=("0",), weights_sha256=("0",), scores=None)},
        selected=None,
    )
    made = make_document(place, "model.json", record)
    archive = place / "x.zip"

    def read() -> None:
        write_zip(archive, ("model.json", made.path.read_bytes()))
        read_model_record(archive)

    return replace(made, read=read, shown="model|x.zip", is_inside=True)


def make_foreign_plans(place: Path, model: Path) -> Target:
    root = Path(shutil.copytree(model, place / model.name))
    checkpoint = read_nnunet_checkpoint(root / "fold_0" / "checkpoint_final.pth")
    path = root / "plans.json"
    return Target(
        path=path, content=build_foreign_plans(), read=lambda: import_plan(open_nnunet_model(root, "final"), checkpoint)
    )


def make_foreign_dataset(place: Path, model: Path) -> Target:
    made = make_foreign_plans(place, model)
    return replace(made, path=made.path.with_name("dataset.json"), content=build_foreign_dataset())


def make_sidecar(place: Path) -> Target:
    tifffile.imwrite(place / "a.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    return Target(
        path=place / "a.json", content={"spacing": [1.0, 2.0, 3.0]}, read=lambda: read_image([place / "a.tif"])
    )


def make_header(place: Path) -> Target:
    made = make_document(place, "header.json", build_checkpoint_description(epochs=2, iterations=1))
    path = place / "checkpoint_latest.safetensors"

    def read() -> None:
        text = made.path.read_bytes().decode("utf-8", "replace")
        save_file({"network.a": torch.zeros(1)}, path, metadata={"autoseg": text})
        read_description(path)

    return replace(made, read=read, shown="checkpoint_latest", is_inside=True)


FOREIGN: Final[Mapping[str, Callable[[Path, Path], Target]]] = {
    "nnunet_plans": make_foreign_plans,
    "nnunet_dataset": make_foreign_dataset,
}
OWN: Final[Mapping[str, Callable[[Path], Target]]] = {
    "dataset": make_dataset,
    "listed_dataset": make_listed_dataset,
    "decathlon": make_decathlon,
    "plan": make_plan,
    "splits": lambda place: make_document(place, "splits.json", SPLITS),
    "fingerprint": lambda place: make_document(place, "fingerprint.json", build_fingerprint((1, 1, 1), (4, 4, 4))),
    "record": make_record,
    "splits_final": make_foreign_splits,
    "groups": make_groups,
    "selection": make_selection,
    "prediction": make_prediction,
    "model_file": make_model_file,
    "sidecar": make_sidecar,
    "header": make_header,
}


@pytest.fixture(params=[*OWN, *FOREIGN])
def target(request: pytest.FixtureRequest, place: Path) -> Target:
    if request.param in FOREIGN:
        return FOREIGN[request.param](place, request.getfixturevalue("foreign_model"))
    return OWN[request.param](place)


def test_the_right_content_is_read(target: Target) -> None:
    write_json(target.path, target.content)
    target.read()


def test_what_is_no_such_document_is_an_error_with_its_name(target: Target) -> None:
    outcomes = {}
    for kind, text in JSON_TEXTS.items():
        write_json(target.path, text)
        outcomes[kind] = _read(target)
    assert {kind: text for kind, text in outcomes.items() if not re.search(target.pattern, text)} == {}


@pytest.mark.parametrize("kind", JSON_FILES)
def test_what_is_no_file_is_no_document(target: Target, kind: str) -> None:
    if target.is_inside:
        return  # of another file
    target.path.unlink(missing_ok=True)
    JSON_FILES[kind](target.path)
    try:
        target.read()
    except AutosegError:
        return
    assert target.path.stem in ("selection", "a"), "optional documents: as if they were not there"
    assert kind != "gigabytes"


def test_a_field_that_is_missing_or_mistyped_is_an_error_or_harmless(target: Target) -> None:
    changes = list(list_changes(target.content))
    chosen = changes[:: max(1, round(len(changes) / MOST_CHANGES))]
    messages = []
    for _, content in chosen:
        write_json(target.path, content)
        messages.append(_read(target))
    assert max(map(len, messages)) < LONGEST_MESSAGE
    assert sum(map(bool, messages)) > len(messages) / 20


def _read(target: Target) -> str:
    """The message of the error; empty if there was none."""
    try:
        target.read()
    except AutosegError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("field", PLAN_FIELDS)
def test_a_plan_beyond_all_limits_is_refused_by_field(place: Path, field: str) -> None:
    target = make_plan(place)
    write_json(target.path, set_field(target.content, f"configurations.3d_fullres.{field}", PLAN_FIELDS[field]))
    name = field.removesuffix(".0").rpartition(".")[2]
    with pytest.raises(DocumentError, match=rf"plan\.json.*3d_fullres.*{name}|plan\.json: .*3d_fullres"):
        target.read()


def test_a_plan_of_thousands_of_stages_is_refused(place: Path) -> None:
    target = make_plan(place)
    content = target.content
    for field, value in PLANS_OF_MANY_STAGES.items():
        content = set_field(content, f"configurations.3d_fullres.{field}", value)
    write_json(target.path, content)
    with pytest.raises(DocumentError, match=r"network\.features_per_stage: .*at most 32"):
        target.read()


@pytest.mark.parametrize("kind", OVERSIZED_PLANS)
@pytest.mark.parametrize("family", ["plain_unet", "residual_encoder_unet"])
def test_a_plan_that_needs_more_memory_than_there_is_is_refused_before_anything_is_built(
    place: Path, kind: str, family: str
) -> None:
    changes = dict(OVERSIZED_PLANS[kind])
    patch, batch_size = changes.pop("patch", (16, 16, 16)), changes.pop("batch_size", 2)
    configuration = build_configuration(
        patch, network={"family": family, **changes}, training={"batch_size": batch_size}
    )
    with pytest.raises(DeviceError, match=r"training x needs at least .* GiB, .* has .*patch_voxels .*batch_size"):
        check_training_memory(configuration, "x", CPU, count=count_cost)
    if kind != "batch":
        with pytest.raises(DeviceError, match=r"prediction with x needs at least .* GiB.*features_per_stage"):
            check_prediction_memory(configuration, "x", CPU, count=count_cost, network_count=5)


@pytest.mark.parametrize("kind", BAD_NAMES)
def test_a_name_that_cannot_be_that_of_a_file_is_refused_with_one_that_can(place: Path, kind: str) -> None:
    name = BAD_NAMES[kind]
    target = make_listed_dataset(place)
    cases = dict(target.content["dataset"])
    cases[name] = cases.pop("a")
    write_json(target.path, target.content | {"dataset": cases})
    with pytest.raises(AutosegError, match=r"no file of the run can have this name.*call the case") as caught:
        target.read()
    assert not any(character in str(caught.value) for character in "\0\x1b\u2028")
    suggested = re.findall(r"call the case '(.*)'", str(caught.value))[0]
    cases[suggested] = cases.pop(name)
    write_json(target.path, target.content | {"dataset": cases})
    target.read()


@pytest.mark.parametrize("kind", BAD_NAMES)
@pytest.mark.parametrize("field", ["configurations", "fold", "case", "record"])
def test_a_name_in_a_document_of_a_run_is_refused_where_it_would_be_a_path(place: Path, kind: str, field: str) -> None:
    name = BAD_NAMES[kind]
    if field == "configurations":
        target = make_plan(place)
        content = target.content | {"configurations": {name: target.content["configurations"]["3d_fullres"]}}
    elif field == "fold":
        target = make_selection(place)
        content = set_field(target.content, "members.0.folds.0", name)
    elif field == "case":
        target = make_document(place, "splits.json", SPLITS)
        content = set_field(target.content, "folds.0.training.0", name)
    else:
        target = make_record(place)
        content = set_field(target.content, "cases.0.name", name)
    write_json(target.path, content)
    with pytest.raises(DocumentError, match=target.pattern):
        target.read()


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_unusual_names_of_cases_are_kept(place: Path, name: str) -> None:
    target = make_listed_dataset(place)
    cases = dict(target.content["dataset"])
    cases[name] = cases.pop("a")
    write_json(target.path, target.content | {"dataset": cases})
    assert name in [case.name for case in target.read().cases]


def test_names_that_differ_in_capitals_are_refused_in_a_list_and_noted_of_files(place: Path) -> None:
    target = make_listed_dataset(place)
    cases = dict(target.content["dataset"]) | {"A": target.content["dataset"]["a"]}
    write_json(target.path, target.content | {"dataset": cases})
    with pytest.raises(AutosegError, match="'a' and 'A' are one name on Windows and macOS"):
        target.read()
    for path in ("imagesTr/A_0000.nii.gz", "labelsTr/A.nii.gz"):
        (target.path.parent / path).touch()
    folder = make_dataset(place)
    write_json(folder.path, folder.content)
    notes = read_dataset(folder.path.parent).notes
    assert [note for note in notes if "cannot be moved to Windows or macOS" in note]


@pytest.mark.parametrize("files", [("a", "a.previous")])
def test_a_case_that_is_called_like_a_file_of_another_one_is_refused(place: Path, files: tuple[str, ...]) -> None:
    target = make_listed_dataset(place)
    entry = target.content["dataset"]["a"]
    write_json(target.path, target.content | {"dataset": dict.fromkeys(files, entry)})
    with pytest.raises(AutosegError, match=r"files of a in the run have this name"):
        target.read()


FOLDS: Final[Mapping[str, tuple[Any, str]]] = {
    "in both": ([{"train": ["a", "b", "c"], "val": ["c", "d"]}], "fold 0 has c in both 'train' and 'val'"),
    "twice": ([{"train": ["a", "b", "c", "c"], "val": ["d"]}], "fold 0 has c twice in 'train'"),
    "unknown": ([{"train": ["a", "b", "c"], "val": ["d", "e"]}], "unknown cases: e"),
    "left out": ([{"train": ["a", "b"], "val": ["c"]}], "cases of the dataset in no fold: d"),
    "empty": ([{"train": ["a", "b", "c", "d"], "val": []}], "fold 0: 'val' is empty"),
    "none": ([], "cases of the dataset in no fold: a, b, c, d"),
    "climbing": ([{"train": ["../../x"], "val": ["a"]}], "unknown cases: ../../x"),
}


@pytest.mark.parametrize("kind", FOLDS)
def test_folds_that_leak_or_do_not_fit_are_named(place: Path, kind: str) -> None:
    content, problem = FOLDS[kind]
    target = make_foreign_splits(place)
    write_json(target.path, content)
    with pytest.raises(AutosegError, match=re.escape(problem)):
        target.read()


@pytest.mark.parametrize(("cases", "problem"), [
    ({"training": ["a", "b"], "validation": ["b"]}, "fold 0 has b in both 'training' and 'validation'"),
    ({"training": ["a", "a"], "validation": ["b"]}, "fold 0 has a twice in 'training'"),
    ({"training": ["a"], "validation": ["b", "b"]}, "fold 0 has b twice in 'validation'"),
    ({"training": [], "validation": ["b"]}, "folds.0.training"),
])  # fmt: skip
def test_folds_of_a_run_that_leak_are_named(place: Path, cases: dict[str, list[str]], problem: str) -> None:
    target = make_document(place, "splits.json", SPLITS)
    write_json(target.path, {"schema_version": 1, "folds": [cases]})
    with pytest.raises(DocumentError, match=problem):
        target.read()


MINIMUM: Final = {"kind": "minimum_size", "name": "x", "values": [5]}


@pytest.mark.parametrize(("field", "value", "problem"), [
    ("members", [], "members"),
    ("members.0.folds", [], "members.0.folds"),
    ("members.0.configuration", "../../models", "configuration"),
    ("members.0.configuration", "2d", "chose 2d .* lacks fold 0"),
    ("members.0.folds", ["7"], "lacks fold 7"),
    ("postprocessing.rules.0.values", [99], r"label values \[99\]"),
    ("postprocessing.rules.0.values", [], "values"),
    ("postprocessing.rules.0", MINIMUM | {"minimum_mm3": "Infinity"}, "finite"),
    ("postprocessing.rules.0", {"kind": "fill_holes", "name": "x", "values": [5], "fill_value": 7}, r"values \[7\]"),
    ("postprocessing.rules.0", {"kind": "exec", "name": "x"}, "kind"),
])  # fmt: skip
def test_a_selection_of_what_is_not_there_is_refused(place: Path, field: str, value: Any, problem: str) -> None:
    target = make_selection(place)
    write_json(target.path, set_field(target.content, field, value))
    with pytest.raises(AutosegError, match=problem):
        target.read()


@pytest.mark.parametrize("kind", ZIP_FILES)
def test_nothing_is_unpacked_from_a_hostile_archive(place: Path, kind: str) -> None:
    archive, folder = place / "x.zip", place / "unpacked"
    folder.mkdir()
    ZIP_FILES[kind](archive)
    with pytest.raises(ExchangeError, match=r"x\.zip"):
        unpack_archive(archive, folder, names=frozenset({"plans.json", "checkpoint_final.pth"}))
    assert kind in ("cut", "flipped", "claims_nothing") or list(folder.iterdir()) == []
    with pytest.raises(AutosegError, match=r"x\.zip"):
        import_model(archive, place / "run", progress=SilentProgress())
    assert not (place / "run").exists()


def read_model(root: Path) -> None:
    import_model(root, root.with_name("run"), progress=SilentProgress())


def change_checkpoint(root: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = root / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)
    return path


@pytest.fixture
def copied_model(place: Path, foreign_model: Path) -> Path:
    return Path(shutil.copytree(foreign_model, place / foreign_model.name))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_no_network_has_are_refused(copied_model: Path, kind: str) -> None:
    name = "encoder.stages.0.0.convs.0.conv.weight"
    change_checkpoint(
        copied_model,
        lambda content: content["network_weights"].update({name: WEIGHTS[kind](content["network_weights"][name])}),
    )
    with pytest.raises(ExchangeError, match=r"checkpoint_final\.pth|encoder"):
        read_model(copied_model)
    assert not copied_model.with_name("run").exists()


@pytest.mark.parametrize("kind", ENTRIES)
def test_entries_that_no_checkpoint_has_are_refused(copied_model: Path, kind: str) -> None:
    key, _, _ = kind.partition(".")
    change_checkpoint(copied_model, lambda content: content.update({key: ENTRIES[kind]()}))
    with pytest.raises(AutosegError):
        read_model(copied_model)
    assert not copied_model.with_name("run").exists()


def test_names_that_share_memory_a_thousand_times_are_refused(copied_model: Path) -> None:
    shared = torch.zeros(2**14)
    change_checkpoint(
        copied_model, lambda content: content["network_weights"].update({f"x{index}": shared for index in range(1000)})
    )
    with pytest.raises(ExchangeError, match=r"1188 tensors of .* MiB share"):
        read_model(copied_model)


@pytest.mark.parametrize("key", ["network_weights", "logging", "trainer_name", "init_args", "x"])
def test_a_payload_does_not_run_wherever_it_is(copied_model: Path, key: str) -> None:
    marker = copied_model.with_name("marker")
    path = change_checkpoint(copied_model, lambda content: content.update({key: Payload(marker)}))
    with pytest.raises(ExchangeError, match=r"is refused: beside weights it names .*mkdir.*nothing was run"):
        read_model(copied_model)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # a full reader would have run it
    assert marker.exists()


def test_a_checkpoint_that_was_compressed_is_refused_unopened(copied_model: Path) -> None:
    path = copied_model / "fold_0" / "checkpoint_final.pth"
    path.unlink()
    write_compressed_checkpoint(path)
    with pytest.raises(ExchangeError, match=r"unpack to 16 MiB.*nothing was run"):
        read_model(copied_model)


@pytest.fixture
def fold(place: Path) -> FoldFolder:
    folder = FoldFolder(place / "fold_0")
    write_weights(folder.final_checkpoint, build_network(PLAN.configurations["3d_fullres"].network).state_dict())
    return folder


SAFE_WEIGHTS: Final = ("integers", "bools", "nan", "infinite", "other_shape", "no_elements")


@pytest.mark.parametrize("kind", SAFE_WEIGHTS)
def test_weights_in_safetensors_that_no_network_has_are_refused(fold: FoldFolder, kind: str) -> None:
    weights = load_file(fold.final_checkpoint)
    del weights["checksums"]  # a stranger's file has none
    name = next(iter(weights))
    save_file(weights | {name: WEIGHTS[kind](weights[name])}, fold.final_checkpoint)
    with pytest.raises(AutosegError, match=r"checkpoint_final\.safetensors"):
        load_network(fold, PLAN.configurations["3d_fullres"])


HEADERS: Final[Mapping[str, bytes]] = {
    "long": (2**62).to_bytes(8, "little") + b"{}",
    "brackets": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "shape": b'{"network.a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}',
    "offsets": b'{"network.a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000000000000]}}',
    "overlap": (
        b'{"network.a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"network.b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "dtype": b'{"network.a":{"dtype":"PICKLE","shape":[1],"data_offsets":[0,4]}}',
    "negative": b'{"network.a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
    "nothing": b"{}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_header_of_safetensors_is_an_error(fold: FoldFolder, kind: str) -> None:
    header = HEADERS[kind]
    is_whole = header.startswith(b"{")
    length = len(header).to_bytes(8, "little") if is_whole else b""
    fold.final_checkpoint.write_bytes(length + header + bytes(4 if kind != "nothing" else 0))
    with pytest.raises(AutosegError, match=r"checkpoint_final\.safetensors"):
        load_network(fold, PLAN.configurations["3d_fullres"])


@pytest.mark.parametrize(
    "path", ["a\0b.nii.gz", "x" * 5000, "/dev/zero", ".", "../" * 50, "imagesTr/pipe.nii.gz", "gone.nii.gz"]
)
@pytest.mark.parametrize("key", ["images", "label"])
def test_a_listed_path_that_is_no_image_file_is_named(place: Path, path: str, key: str) -> None:
    target = make_listed_dataset(place)
    os.mkfifo(target.path.parent / "imagesTr" / "pipe.nii.gz")
    write_json(target.path, set_field(target.content, f"dataset.a.{key}", [path] if key == "images" else path))
    with pytest.raises(AutosegError, match=r"case a: .*(exist|folder|device|null|ending|opened)"):
        target.read()


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_a_pipe_or_loop_in_place_of_an_image_is_named(place: Path, folder: str) -> None:
    target = make_dataset(place)
    write_json(target.path, target.content)
    ending = "_0000.nii.gz" if folder == "imagesTr" else ".nii.gz"
    for name, build in (("a", os.mkfifo), ("b", lambda path: path.symlink_to(path.name))):
        path = target.path.parent / folder / f"{name}{ending}"
        path.unlink()
        build(path)
    with pytest.raises(AutosegError, match=r"(?s)case a: .* device or pipe.*case b: .*link to a file that does not"):
        target.read()


@pytest.mark.parametrize("name", ["a\nb", "x" * 230])
def test_files_whose_names_no_run_can_hold_are_named(place: Path, name: str) -> None:
    target = make_dataset(place)
    write_json(target.path, target.content)
    for path in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz"):
        (target.path.parent / path).touch()
    with pytest.raises(AutosegError, match=r"no file of the run can have this name"):
        target.read()


@pytest.mark.parametrize("patch", [(128, 128, 128), (64, 192, 160), (512, 512), (1024, 1024)])
def test_usual_plans_fit_into_small_computers(patch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.networks.memory_limits.find_available_ram", lambda: 8 * 2**30)
    features = (32, 64, 128, 256, 320, 320)
    network = {
        "features_per_stage": features,
        "strides": ((1,) * len(patch), *((2,) * len(patch),) * 5),
        "blocks_per_stage": (2,) * 6,
        "convolutions_per_decoder_stage": (2,) * 5,
    }
    configuration = build_configuration(patch, network=network, training={"batch_size": 2})
    check_training_memory(configuration, "x", CPU, count=count_cost)
    check_prediction_memory(configuration, "x", CPU, count=count_cost, network_count=5)


@pytest.mark.parametrize("batch_size", [8, 7])
def test_each_of_several_processes_needs_memory_for_its_part_of_the_batch(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoseg.networks.memory_limits.find_available_ram", lambda: 3 * 2**29)
    configuration = build_configuration((256, 256, 256), training={"batch_size": batch_size})
    check_training_memory(configuration, "x", CPU, count=count_cost, process_count=4)
    for process_count, subject in ((1, "training x"), (2, "training x in each of 2 processes")):
        with pytest.raises(DeviceError, match=rf"^{subject} needs .*training\.batch_size {batch_size}"):
            check_training_memory(configuration, "x", CPU, count=count_cost, process_count=process_count)
