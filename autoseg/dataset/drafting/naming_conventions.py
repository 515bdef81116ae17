"""Words in folder and file names that mark images, label maps, channels and files to be skipped. Data only."""

from typing import Final

IMAGE_FOLDERS: Final = frozenset(
    {
        "images",
        "image",
        "imgs",
        "img",
        "imagestr",
        "images_tr",
        "imagestrain",
        "originals",
        "original",
        "scans",
        "volumes",
    }
)
LABEL_FOLDERS: Final = frozenset(
    {
        "labels", "label", "labelstr", "labels_tr", "labelstrain", "masks", "mask", "segmentations", "segmentation",
        "seg", "segs", "annotations", "annotation", "groundtruth", "ground_truth", "ground-truth", "gt",
        "1st_manual", "2nd_manual", "manual", "manual_masks", "manual_labels",
    }
)  # fmt: skip
"""Each may hold one file for each case, or a folder for each case or class."""

DERIVATIVES: Final = "derivatives"
"""BIDS folder of data derived from the images; its subfolders name the kind (labels, manual_masks, ...)."""

TEST_FOLDERS: Final = frozenset({"imagests", "labelsts", "test", "tests", "testing"})
"""Held back by the authors of the dataset, so never used automatically."""

SPLIT_FOLDERS: Final = frozenset({"train", "training", "val", "valid", "validation", "data", "dataset"})
"""Folders that do not identify the patient."""

LABEL_WORDS: Final = (
    "label", "labels", "labelmap", "label_map", "seg", "segm", "segmentation", "dseg", "mask", "masks", "gt",
    "groundtruth", "ground_truth", "truth", "annotation", "manual", "seg-manual", "label-manual", "mask-manual",
    "manual1", "manual2", "1stho", "2ndho", "1st_manual", "2nd_manual", "roi",
)  # fmt: skip
"""Ends of names, after one of `_-. `, and beginnings before a number; `manual1` is DRIVE's, `1stHO` CHASE_DB1's."""

IMAGE_WORDS: Final = (
    "image",
    "images",
    "img",
    "im",
    "imaging",
    "orig",
    "original",
    "volume",
    "vol",
    "scan",
    "training",
)

CHANNEL_NAMES: Final[dict[str, str]] = {
    "ct": "CT", "mr": "MR", "mri": "MR", "t1": "T1", "t1w": "T1w", "t1n": "T1n", "t1c": "T1c", "t1ce": "T1ce",
    "t1gd": "T1Gd", "t1post": "T1post", "t2": "T2", "t2w": "T2w", "t2f": "T2f", "t2star": "T2star", "flair": "FLAIR",
    "pd": "PD", "pdw": "PDw", "dwi": "DWI", "adc": "ADC", "hbv": "HBV", "swi": "SWI", "dce": "DCE", "mra": "MRA",
    "cbf": "CBF", "cbv": "CBV", "mtt": "MTT", "tmax": "Tmax", "ncct": "NCCT", "cta": "CTA", "pet": "PET", "suv": "SUV",
}  # fmt: skip
"""Names of channels by the last word of a file name, in the order in which they are numbered."""

COLOUR_NAMES: Final = ("R", "G", "B")

UNREADABLE_ADVICE: Final[dict[str, str]] = {
    ".gif": "save it as PNG", ".ppm": "save it as PNG", ".pgm": "save it as PNG", ".webp": "save it as PNG",
    ".jp2": "save it as PNG", ".npy": "save it as NIfTI", ".npz": "save it as NIfTI", ".mat": "save it as NIfTI",
    ".svs": "save the wanted level as TIFF", ".czi": "save it as TIFF", ".lif": "save it as TIFF",
}  # fmt: skip
"""Images that are recognized and not read, and what to do."""

PROBABLE_IGNORE_VALUES: Final = (255, -1, 254, 99)
