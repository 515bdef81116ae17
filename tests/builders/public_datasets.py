"""Tiny made-up trees with the file names of public datasets."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from builders.volumes import save_nifti

SIZE = (12, 16)  # y, x
VOLUME = (10, 9, 8)  # x, y, z
FLIPPED = np.diag([-1.0, -1.0, 1.0, 1.0])  # another place in the world than that of the images
HASHES = tuple(digit * 64 for digit in "abcd")
KVASIR_NAMES = ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4", "ck2bxiswtxuw80838qkisqjwz")
NUCLEI = (((2.0, 1.0), (6.0, 1.0), (6.0, 5.0), (2.0, 5.0)), ((10.0, 3.0), (14.0, 3.0), (14.0, 9.0), (10.0, 9.0)))


def draw(seed: int, *, channels: int = 3) -> np.ndarray:
    """A picture of noise, which differs from case to case."""
    shape = (*SIZE, channels) if channels > 1 else SIZE
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def draw_square(first: int, *, value: int = 255, extent: int = 4) -> np.ndarray:
    """A square of a value; the rows and columns from `first` on."""
    picture = np.zeros(SIZE, np.uint8)
    picture[first : first + extent, first : first + extent] = value
    return picture


def save_picture(path: Path, array: np.ndarray) -> Path:
    """Saves a picture in the format of its ending; JPEG as the datasets have it, with losses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def save_volume(path: Path, seed: int, affine: np.ndarray | None = None) -> None:
    """Saves a volume of noise."""
    array = np.random.default_rng(seed).normal(0, 100, VOLUME).astype(np.float32)
    save_nifti(path, array, np.eye(4) if affine is None else affine)


def save_boxes(path: Path, *values: int, affine: np.ndarray | None = None) -> None:
    """Saves a label map with a box of every value."""
    array = np.zeros(VOLUME, np.uint8)
    for index, value in enumerate(values):
        array[1:4, 1:4, 2 * index : 2 * index + 2] = value
    save_nifti(path, array, np.eye(4) if affine is None else affine)


def build_synapse(root: Path) -> None:
    for number in ("0001", "0002", "0021"):
        save_volume(root / "RawData" / "Training" / "img" / f"img{number}.nii.gz", int(number))
        save_boxes(root / "RawData" / "Training" / "label" / f"label{number}.nii.gz", 1, 6, 13)
    save_volume(root / "RawData" / "Testing" / "img" / "img0061.nii.gz", 61)


def build_nih_pancreas(root: Path) -> None:
    for number in ("0001", "0002"):
        save_volume(root / "Pancreas-CT" / "data" / f"PANCREAS_{number}.nii.gz", int(number))
        save_boxes(root / "TCIA_pancreas_labels-02-05-2017" / f"label{number}.nii.gz", 1, affine=FLIPPED)


def build_covid19_ct(root: Path) -> None:
    names = {
        "coronacases_org_001": "coronacases_001",
        "radiopaedia_org_covid-19-pneumonia_10_85902_0": "radiopaedia_10_85902_0",
    }
    for seed, (image, mask) in enumerate(names.items()):
        save_volume(root / "ct_scans" / f"{image}.nii", seed)
        save_boxes(root / "lung_mask" / f"{mask}.nii", 1, 2)
        save_boxes(root / "infection_mask" / f"{mask}.nii", 0, 1)
        save_boxes(root / "lung_and_infection_mask" / f"{mask}.nii", 1, 3)
    (root / "metadata.csv").write_text("ct_scan,lung_mask,infection_mask,lung_and_infection_mask\n")


def build_acdc(root: Path) -> None:
    for part, patient in (("training", 1), ("training", 2), ("testing", 101)):
        folder = root / "database" / part / f"patient{patient:03d}"
        for frame in (1, 12):
            save_volume(folder / f"patient{patient:03d}_frame{frame:02d}.nii.gz", 10 * patient + frame)
            save_boxes(folder / f"patient{patient:03d}_frame{frame:02d}_gt.nii.gz", 1, 2, 3)
        save_volume(folder / f"patient{patient:03d}_4d.nii.gz", patient)
        (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")


def build_isles2018(root: Path) -> None:
    for case, number in (("case_1", 339203), ("case_2", 339210)):
        for offset, kind in enumerate(("CT", "CT_4DPWI", "CT_CBF", "CT_CBV", "CT_MTT", "CT_Tmax")):
            name = f"SMIR.Brain.XX.O.{kind}.{number + offset}"
            save_volume(root / "TRAINING" / case / name / f"{name}.nii", number + offset)
        name = f"SMIR.Brain.XX.O.OT.{number + 9}"
        save_boxes(root / "TRAINING" / case / name / f"{name}.nii", 1)
    name = "SMIR.Brain.XX.O.{}.345562"
    for kind in ("CT", "CT_CBF", "CT_CBV", "CT_MTT", "CT_Tmax"):
        save_volume(root / "TESTING" / "case_1" / name.format(kind) / f"{name.format(kind)}.nii", 5)


def build_sts_3d(root: Path) -> None:
    for number in ("1", "2"):
        save_volume(root / "STS-3D" / "labelled" / "image" / f"{number}.nii.gz", int(number))
        save_boxes(root / "STS-3D" / "labelled" / "label" / f"{number}.nii.gz", 1)
    save_volume(root / "STS-3D" / "unlabelled" / "3.nii.gz", 3)


def build_kvasir(root: Path) -> None:
    for seed, name in enumerate(KVASIR_NAMES):
        save_picture(root / "Kvasir-SEG" / "images" / f"{name}.jpg", draw(seed))
        save_picture(root / "Kvasir-SEG" / "masks" / f"{name}.jpg", draw_square(3))
    (root / "Kvasir-SEG" / "kavsir_bboxes.json").write_text("{}")


def build_cvc_clinicdb(root: Path) -> None:
    for number in (1, 2, 26):
        for folder, ending in (("PNG", ".png"), ("TIF", ".tif")):
            save_picture(root / folder / "Original" / f"{number}{ending}", draw(number))
            save_picture(root / folder / "Ground Truth" / f"{number}{ending}", draw_square(2))
    rows = [
        "frame_id,sequence_id,png_image_path",
        *(f"{n},{s},PNG/Original/{n}.png" for n, s in ((1, 1), (2, 1), (26, 2))),
    ]
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")


def build_cvc_colondb(root: Path) -> None:
    for number in (1, 2):
        save_picture(root / "CVC-ColonDB" / f"{number}.bmp", draw(number))
        for kind, first in (("p", 2), ("s", 0), ("c", 7)):
            save_picture(root / "CVC-ColonDB" / f"{kind}{number}.bmp", draw_square(first))


def build_isic2018(root: Path) -> None:
    for seed, (part, name) in enumerate(
        (("Training", "ISIC_0000000"), ("Training", "ISIC_0000001"), ("Test", "ISIC_0012169"))
    ):
        save_picture(root / f"ISIC2018_Task1-2_{part}_Input" / f"{name}.jpg", draw(seed))
        save_picture(root / f"ISIC2018_Task1_{part}_GroundTruth" / f"{name}_segmentation.png", draw_square(4))
    (root / "ISIC2018_Task1-2_Training_Input" / "ATTRIBUTION.txt").write_text("")


def build_busi(root: Path) -> None:
    for seed, kind in enumerate(("benign", "malignant", "normal")):
        folder = root / "Dataset_BUSI_with_GT" / kind
        grey = draw(seed, channels=1)
        save_picture(folder / f"{kind} (1).png", np.stack([grey] * 3, axis=-1))
        save_picture(folder / f"{kind} (1)_mask.png", draw_square(1, value=0 if kind == "normal" else 255))
    save_picture(root / "Dataset_BUSI_with_GT" / "benign" / "benign (1)_mask_1.png", draw_square(7))


def build_drive(root: Path) -> None:
    for part, number in (("training", 21), ("training", 22), ("test", 1)):
        folder = root / "DRIVE" / part
        save_picture(folder / "images" / f"{number:02d}_{part}.tif", draw(number))
        save_picture(folder / "mask" / f"{number:02d}_{part}_mask.gif", draw_square(0, extent=12))
        if part == "training":
            save_picture(folder / "1st_manual" / f"{number:02d}_manual1.gif", draw_square(5))


def build_refuge2(root: Path) -> None:
    discs = np.full(SIZE, 255, np.uint8)
    discs[2:10, 2:10], discs[4:8, 4:8] = 128, 0
    for seed, (part, name) in enumerate((("train", "g0001"), ("train", "n0001"), ("val", "V0001"), ("test", "T0001"))):
        save_picture(root / "REFUGE2" / part / "images" / f"{name}.jpg", draw(seed))
        save_picture(root / "REFUGE2" / part / "mask" / f"{name}.bmp", discs)


def build_carvana(root: Path) -> None:
    for car in ("00087a6bd4dc", "02159e548029"):
        for view in ("01", "02"):
            save_picture(root / "train" / f"{car}_{view}.jpg", draw(int(car, 16) % 97 + int(view)))
            mask = Image.fromarray(draw_square(3, value=1)).convert("P")
            mask.putpalette([0, 0, 0, 255, 255, 255])
            (root / "train_masks").mkdir(exist_ok=True)
            mask.save(root / "train_masks" / f"{car}_{view}_mask.gif")


def build_glas(root: Path) -> None:
    folder = root / "Warwick QU Dataset (Released 2016_07_08)"
    for seed, name in enumerate(("train_1", "train_2", "train_3", "testA_1", "testB_1")):
        glands = draw_square(1, value=1) + draw_square(6, value=2)
        save_picture(folder / f"{name}.bmp", draw(seed))
        save_picture(folder / f"{name}_anno.bmp", glands)
    rows = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    rows += [
        f"{name},{patient}, benign, adenomatous" for name, patient in (("train_1", 7), ("train_2", 7), ("train_3", 9))
    ]
    (folder / "Grade.csv").write_text("\n".join(rows) + "\n")


def build_monuseg(root: Path) -> None:
    parts = ("MoNuSeg 2018 Training Data", "MoNuSegTestData")
    for seed, (part, name) in enumerate(
        (
            (parts[0], "TCGA-18-5592-01Z-00-DX1"),
            (parts[0], "TCGA-38-6178-01Z-00-DX1"),
            (parts[1], "TCGA-2Z-A9J9-01A-01-TS1"),
        )
    ):
        folders = ("Tissue Images", "Annotations") if part == parts[0] else ("", "")
        save_picture(root / part / folders[0] / f"{name}.tif", draw(seed))
        path = root / part / folders[1] / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(format_aperio_xml())


def format_aperio_xml() -> str:
    """Two rectangular nuclei in the form of Aperio ImageScope."""
    regions = "".join(
        f'<Region Id="{index}"><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
        + "</Vertices></Region>"
        for index, corners in enumerate(NUCLEI, start=1)
    )
    return f'<Annotations><Annotation Id="1"><Regions>{regions}</Regions></Annotation></Annotations>'


def build_dsb2018(root: Path) -> None:
    for seed, name in enumerate(HASHES[:2]):
        folder = root / "stage1_train" / name
        opaque = np.full((*SIZE, 1), 255, np.uint8)
        save_picture(folder / "images" / f"{name}.png", np.concatenate([draw(seed), opaque], axis=-1))
        for mask, first in zip(HASHES[2:], (1, 6), strict=True):
            save_picture(folder / "masks" / f"{mask}.png", draw_square(first))
    save_picture(root / "stage1_test" / HASHES[3] / "images" / f"{HASHES[3]}.png", draw(9))


def build_isbi2012(root: Path) -> None:
    import tifffile

    stack = np.stack([draw(index, channels=1) for index in range(14)])
    cells = np.stack([draw_square(index % 4) for index in range(14)])
    for name, array in (("train-volume", stack), ("train-labels", cells), ("test-volume", stack[:2])):
        tifffile.imwrite(root / f"{name}.tif", array, photometric="minisblack")


def build_phc_u373(root: Path) -> None:
    for sequence in ("01", "02"):
        for frame in range(3):
            save_picture(
                root / "PhC-C2DH-U373" / sequence / f"t{frame:03d}.tif", draw(frame + int(sequence), channels=1)
            )
        for frame in range(2):
            cells = (draw_square(1, value=3) + draw_square(6, value=7)).astype(np.uint16)
            save_picture(root / "PhC-C2DH-U373" / f"{sequence}_GT" / "SEG" / f"man_seg{frame:03d}.tif", cells)


def build_coco(root: Path) -> None:
    for seed, part in enumerate(("train2017", "test2017")):
        names = [f"{number + seed:012d}.jpg" for number in (9, 25)]
        for name in names:
            save_picture(root / part / name, draw(int(name[:-4])))
        (root / "annotations").mkdir(exist_ok=True)
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 18, "name": "nucleus"}, {"id": 3, "name": "cell"}],
        }
        for image_id, name in enumerate(names):
            content["images"].append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
            content["annotations"] += list_coco_annotations(image_id)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))


def list_coco_annotations(image_id: int) -> list[dict[str, object]]:
    """A small nucleus as a polygon, a cell around it as runs, and a nucleus beside them."""
    cell = np.zeros(SIZE, bool)
    cell[0:6, 0:8] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], cell.T.ravel(), [not cell[-1, -1]]])))
    runs = {"counts": np.diff(np.concatenate([[0], edges])).tolist(), "size": list(SIZE)}
    shapes = [(18, [[xy for corner in NUCLEI[0] for xy in corner]]), (3, runs)]
    shapes += [(18, [[xy for corner in NUCLEI[1] for xy in corner]])]
    return [
        {"id": 10 * image_id + index, "image_id": image_id, "category_id": category, "segmentation": segmentation}
        for index, (category, segmentation) in enumerate(shapes)
    ]


TREES: dict[str, Callable[[Path], None]] = {
    "synapse": build_synapse,
    "nih-pancreas": build_nih_pancreas,
    "covid19-ct": build_covid19_ct,
    "acdc": build_acdc,
    "isles2018": build_isles2018,
    "sts-3d": build_sts_3d,
    "kvasir": build_kvasir,
    "cvc-clinicdb": build_cvc_clinicdb,
    "cvc-colondb": build_cvc_colondb,
    "isic2018": build_isic2018,
    "busi": build_busi,
    "drive": build_drive,
    "refuge2": build_refuge2,
    "carvana": build_carvana,
    "glas": build_glas,
    "monuseg": build_monuseg,
    "dsb2018": build_dsb2018,
    "isbi2012": build_isbi2012,
    "phc-u373": build_phc_u373,
    "coco": build_coco,
}
"""The builder of each layout's tree, which writes below an existing folder."""


def build_tree(name: str, root: Path) -> Path:
    """Writes the tree of a layout."""
    root.mkdir(parents=True, exist_ok=True)
    TREES[name](root)
    return root
