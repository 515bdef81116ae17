"""Layouts of datasets of microscopic pictures."""

from typing import Final

from autoseg.dataset.layouts.layout import (
    ForegroundMask,
    GroupTable,
    Layout,
    Objects,
)

COLOURS: Final = ("R", "G", "B")

GLAS: Final = Layout(
    title="GlaS: glands in 165 histological pictures of the colon",
    reference="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest/",
    names_from="archive warwick_qu_dataset_released_2016_07_08.zip: train_1.bmp, train_1_anno.bmp, testA_1.bmp, "
    "testB_1.bmp, Grade.csv",
    images=("**/{case:(?:train|testA|testB)_\\d+}.bmp",),
    channels=COLOURS,
    labels={"gland": 1},
    masks=(Objects(stored_as="numbers", pattern="**/{case:(?:train|testA|testB)_\\d+}_anno.bmp"),),
    group=GroupTable(pattern="**/Grade.csv", case_column="name", group_column="patient ID"),
    held_out=r"(?:^|/)test[AB]_",
)

MONUSEG: Final = Layout(
    title="MoNuSeg 2018: about 22,000 nuclei in 30 histological pictures",
    reference="https://monuseg.grand-challenge.org/Data/",
    names_from="archives MoNuSeg 2018 Training Data.zip: Tissue Images/TCGA-18-5592-01Z-00-DX1.tif, "
    "Annotations/TCGA-18-5592-01Z-00-DX1.xml; and MoNuSegTestData.zip: both side by side",
    images=("**/{patient:TCGA-\\w\\w-\\w{4}}-{slide:\\w{3}-\\w\\w-\\w{3}}.tif",),
    channels=COLOURS,
    labels={"nucleus": 1},
    masks=(Objects(stored_as="polygons", pattern="**/{patient:TCGA-\\w\\w-\\w{4}}-{slide:\\w{3}-\\w\\w-\\w{3}}.xml"),),
    case="{patient}-{slide}",
    group="{patient}",
    held_out=r"(?i)test",
)

DSB_2018: Final = Layout(
    title="Data Science Bowl 2018 (BBBC038): nuclei in 670 pictures of several kinds of microscopes",
    reference="https://bbbc.broadinstitute.org/BBBC038",
    names_from="archive stage1_train.zip: one folder for each picture with images/*.png and masks/*.png",
    images=("**/{case:[0-9a-f]{64}}/images/{case}.png",),
    channels=COLOURS,
    labels={"nucleus": 1},
    masks=(Objects(stored_as="masks", pattern="**/{case:[0-9a-f]{64}}/masks/{mask:[0-9a-f]{64}}.png"),),
    held_out=r"(?:^|/)stage[12]_test[^/]*/",
)

ISBI_2012: Final = Layout(
    title="ISBI 2012 EM challenge: membranes in a stack of 30 slices of electron microscopy",
    reference="https://imagej.net/events/isbi-2012-segmentation-challenge",
    names_from="archive of the challenge: train-volume.tif, train-labels.tif, test-volume.tif",
    images=("**/{case:train|test}-volume.tif",),
    channels=("EM",),
    labels={"cell": 1},
    masks=(ForegroundMask(pattern="**/{case:train|test}-labels.tif"),),
    held_out=r"test-volume\.tif$",
    slices_per_group=6,
    remarks=("slices become cases; six successive ones stay together in a fold, as neighbours are alike",),
)

PHC_U373: Final = Layout(
    title="PhC-C2DH-U373: cells in two sequences of phase contrast microscopy",
    reference="https://celltrackingchallenge.net/2d-datasets/",
    names_from="archive PhC-C2DH-U373.zip: 01/t000.tif, 01_GT/SEG/man_seg000.tif",
    images=("**/{sequence:\\d{2}}/t{frame:\\d{3,4}}.tif",),
    channels=("phase contrast",),
    labels={"cell": 1},
    masks=(Objects(stored_as="numbers", pattern="**/{sequence:\\d{2}}_GT/SEG/man_seg{frame:\\d{3,4}}.tif"),),
    case="seq{sequence}_t{frame}",
    group="seq{sequence}",
    recognized_by="U373",
    remarks=("only the frames with a reference in SEG are converted",),
)
