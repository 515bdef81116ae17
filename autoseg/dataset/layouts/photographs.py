"""Layouts of datasets of photographs and ultrasound pictures."""

from dataclasses import replace
from typing import Final

from autoseg.dataset.layouts.layout import ForegroundMask, GroupTable, LabelValues, Layout, Objects

COLOURS: Final = ("R", "G", "B")

KVASIR_SEG: Final = Layout(
    title="Kvasir-SEG: polyps in 1000 colonoscopy pictures",
    reference="https://datasets.simula.no/kvasir-seg/",
    names_from="archive kvasir-seg.zip: Kvasir-SEG/images, Kvasir-SEG/masks, both JPEG",
    images=("**/images/{case:c[a-z0-9]{24}}.jpg",),
    channels=COLOURS,
    labels={"polyp": 1},
    masks=(ForegroundMask(pattern="**/masks/{case:c[a-z0-9]{24}}.jpg"),),
)

CVC_CLINICDB: Final = Layout(
    title="CVC-ClinicDB: polyps in 612 frames of 31 colonoscopy sequences",
    reference="https://polyp.grand-challenge.org/CVCClinicDB/",
    names_from="archive CVC-ClinicDB.rar: Original, Ground Truth (TIFF); Kaggle dataset balraj98/cvcclinicdb: "
    "PNG/Original, PNG/Ground Truth, TIF/..., metadata.csv",
    images=("**/PNG/Original/{case:\\d+}.png",),
    channels=COLOURS,
    labels={"polyp": 1},
    masks=(ForegroundMask(pattern="**/PNG/Ground Truth/{case:\\d+}.png"),),
    group=GroupTable(pattern="**/metadata.csv", case_column="frame_id", group_column="sequence_id"),
)
CVC_CLINICDB_TIFF: Final = replace(
    CVC_CLINICDB,
    images=("**/Original/{case:\\d+}.tif",),
    masks=(ForegroundMask(pattern="**/Ground Truth/{case:\\d+}.tif"),),
)

CVC_COLONDB: Final = Layout(
    title="CVC-ColonDB: polyps in 300 frames of 15 colonoscopy sequences",
    reference="http://mv.cvc.uab.es/projects/colon-qa/cvccolondb",
    names_from="page of the dataset: 1.bmp, p1.bmp (polyp), s1.bmp, c1.bmp; archive TestDataset.zip of PraNet "
    "(380 frames): CVC-ColonDB/images/1.png, CVC-ColonDB/masks/1.png",
    images=("**/{case:\\d+}.bmp",),
    channels=COLOURS,
    labels={"polyp": 1},
    masks=(ForegroundMask(pattern="**/p{case:\\d+}.bmp"),),
    recognized_by="ColonDB",
    remarks=("neighbouring frames come from the same of 15 sequences, which the files do not tell",),
)
CVC_COLONDB_PNG: Final = replace(
    CVC_COLONDB,
    images=("**/images/{case:\\d+}.png",),
    masks=(ForegroundMask(pattern="**/masks/{case:\\d+}.png"),),
)

ISIC_2018: Final = Layout(
    title="ISIC 2018, task 1: skin lesions in dermoscopic pictures",
    reference="https://challenge.isic-archive.com/data/#2018",
    names_from="archives ISIC2018_Task1-2_Training_Input.zip and ISIC2018_Task1_Training_GroundTruth.zip, and those of "
    "Validation and Test",
    images=("**/ISIC2018_Task1-2_{part:Training|Validation|Test}_Input/{case:ISIC_\\d{7}}.jpg",),
    channels=COLOURS,
    labels={"lesion": 1},
    masks=(
        ForegroundMask(
            pattern="**/ISIC2018_Task1_{part:Training|Validation|Test}_GroundTruth/{case:ISIC_\\d{7}}_segmentation.png"
        ),
    ),
    held_out=r"_(?:Validation|Test)_Input/",
)

BUSI: Final = Layout(
    title="BUSI: benign and malignant tumours, and normal tissue, in 780 breast ultrasound pictures",
    reference="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
    names_from="archive Dataset_BUSI.zip: Dataset_BUSI_with_GT/benign/benign (1).png, benign (1)_mask.png, "
    "benign (1)_mask_1.png",
    images=("**/{kind:benign|malignant|normal}/{kind} ({number:\\d+}).png",),
    channels=("ultrasound",),
    labels={"tumour": 1},
    masks=(
        ForegroundMask(pattern="**/{kind:benign|malignant|normal}/{kind} ({number:\\d+})_mask{more:(?:_\\d+)?}.png"),
    ),
    case="{kind}_{number}",
    remarks=("benign and malignant tumours share one label; the names of the cases tell them apart",),
)

DRIVE: Final = Layout(
    title="DRIVE: blood vessels in 40 fundus photographs",
    reference="https://drive.grand-challenge.org/",
    names_from="archive datasets.zip: training/images/21_training.tif, training/1st_manual/21_manual1.gif, "
    "test/images/01_test.tif",
    images=("**/{part:training|test}/images/{case:\\d{2}}_{part}.tif",),
    channels=COLOURS,
    labels={"vessel": 1},
    masks=(ForegroundMask(pattern="**/{part:training|test}/1st_manual/{case:\\d{2}}_manual1.gif"),),
    held_out=r"_test\.tif$",
)

REFUGE2: Final = Layout(
    title="REFUGE and REFUGE2: optic disc and cup in 1200 fundus photographs",
    reference="https://refuge.grand-challenge.org/",
    names_from="Kaggle dataset victorlemosml/refuge2: train/images/g0001.jpg, train/mask/g0001.bmp, "
    "val/images/V0001.jpg, test/images/T0001.jpg; archives of the challenge: Training400/Glaucoma/g0001.jpg, "
    "Disc_Cup_Masks/Glaucoma/g0001.bmp",
    images=("**/{case:[gnVT]\\d{4}}.jpg",),
    channels=COLOURS,
    labels={"optic_disc": (1, 2), "optic_cup": 2},
    masks=(LabelValues(pattern="**/{case:[gnVT]\\d{4}}.bmp", values={255: 0, 128: 1, 0: 2}),),
    held_out=r"/?[VT]\d{4}\.jpg$",
)

CARVANA: Final = Layout(
    title="Carvana: cars in 5088 photographs, 16 of each car",
    reference="https://www.kaggle.com/c/carvana-image-masking-challenge",
    names_from="archives train.zip and train_masks.zip: train/00087a6bd4dc_01.jpg, "
    "train_masks/00087a6bd4dc_01_mask.gif",
    images=("**/train/{car:[0-9a-f]{12}}_{view:\\d{2}}.jpg",),
    channels=COLOURS,
    labels={"car": 1},
    masks=(ForegroundMask(pattern="**/train_masks/{car:[0-9a-f]{12}}_{view:\\d{2}}_mask.gif"),),
    case="{car}_{view}",
    group="{car}",
)

COCO: Final = Layout(
    title="objects in a JSON file of the form of COCO, beside any pictures",
    reference="https://cocodataset.org/#format-data",
    names_from="annotations/instances_train2017.json beside train2017, annotations.json, or _annotations.coco.json as "
    "Roboflow exports it; the pictures are those that the file names",
    images=("**/{case}.{ending:(?i:jpe?g|png|bmp|tiff?)}",),
    channels=COLOURS,
    labels={},
    masks=(Objects(stored_as="coco", pattern="**/{file:(?:instances_|_?annotations)[\\w.-]*}.json"),),
    remarks=("labels are the categories of the file, in the order of their numbers",),
)
"""Labels and cases are those of the JSON file (`autoseg.workflows.convert.coco`)."""
