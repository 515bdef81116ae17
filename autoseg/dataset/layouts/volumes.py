"""Layouts of datasets of CT and MR volumes."""

from dataclasses import replace
from typing import Final

from autoseg.dataset.layouts.layout import LabelValues, Layout

ORGANS: Final = (
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
)

SYNAPSE: Final = Layout(
    title="Synapse multi-organ (BTCV, Beyond the Cranial Vault): 13 abdominal organs in CT",
    reference="https://www.synapse.org/Synapse:syn3193805",
    names_from="archive RawData.zip: Training/img, Training/label, Testing/img",
    images=("**/img{case:\\d{4}}.nii.gz",),
    channels=("CT",),
    labels={name: value for value, name in enumerate(ORGANS, start=1)},
    masks=(LabelValues(pattern="**/label{case:\\d{4}}.nii.gz", values={value: value for value in range(1, 14)}),),
    case="img{case}",
    held_out=r"(?:^|/)Testing/",
)

NIH_PANCREAS: Final = Layout(
    title="NIH Pancreas-CT: the pancreas in 82 CT volumes",
    reference="https://doi.org/10.7937/K9/TCIA.2016.tNB1kqBU",
    names_from="archive TCIA_pancreas_labels-02-05-2017.zip; images as the NBIA Data Retriever writes them: "
    "Pancreas-CT/PANCREAS_0001/study/series/1-001.dcm, or after dcm2niix -f PANCREAS_0001",
    images=("**/PANCREAS_{case:\\d{4}}.nii.gz",),
    channels=("CT",),
    labels={"pancreas": 1},
    masks=(LabelValues(pattern="**/label{case:\\d{4}}.nii.gz", values={1: 1}, has_own_axes=True),),
    case="PANCREAS_{case}",
)
NIH_PANCREAS_DICOM: Final = replace(
    NIH_PANCREAS,
    images=("**/PANCREAS_{case:\\d{4}}/",),
    remarks=("the DICOM series are written as NIfTI",),
)

COVID19_CT: Final = Layout(
    title="COVID-19 CT scans: lungs and infections in 20 CT volumes",
    reference="https://doi.org/10.5281/zenodo.3757476",
    names_from="Kaggle dataset andrewmvd/covid19-ct-scans: ct_scans, lung_mask, infection_mask",
    images=(
        "**/ct_scans/**/{origin:coronacases|radiopaedia}_org_{infix:(?:covid-19-pneumonia_)?}{number:\\w+}"
        "{ending:\\.nii(?:\\.gz)?}",
    ),
    channels=("CT",),
    labels={"left_lung": 1, "right_lung": 2, "infection": 3},
    masks=(
        LabelValues(
            pattern="**/lung_mask/**/{origin:[a-z]+}_{number:\\w+}{ending:\\.nii(?:\\.gz)?}", values={1: 1, 2: 2}
        ),
        LabelValues(
            pattern="**/infection_mask/**/{origin:[a-z]+}_{number:\\w+}{ending:\\.nii(?:\\.gz)?}", values={1: 3}
        ),
    ),
    case="{origin}_{number}",
)

ACDC: Final = Layout(
    title="ACDC: ventricles and myocardium in cardiac MR, two frames of 150 patients",
    reference="https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html",
    names_from="archive ACDC.zip: database/training/patient001, database/testing/patient101",
    images=("**/patient{patient:\\d{3}}/patient{patient}_frame{frame:\\d{2}}.nii{gz:(?:\\.gz)?}",),
    channels=("cine MRI",),
    labels={"right_ventricle": 1, "myocardium": 2, "left_ventricle": 3},
    masks=(
        LabelValues(
            pattern="**/patient{patient:\\d{3}}/patient{patient}_frame{frame:\\d{2}}_gt.nii{gz:(?:\\.gz)?}",
            values={1: 1, 2: 2, 3: 3},
        ),
    ),
    case="patient{patient}_frame{frame}",
    group="patient{patient}",
    held_out=r"(?:^|/)testing/",
)


def _name_smir_files(kind: str) -> str:
    return f"**/{{part:TRAINING|TESTING}}/{{case:case_\\d+}}/**/SMIR.Brain.XX.O.{kind}.{{{kind.lower()}_id:\\d+}}.nii"


ISLES_2018: Final = Layout(
    title="ISLES 2018: stroke lesions in CT perfusion maps",
    reference="https://www.isles-challenge.org/ISLES2018/",
    names_from="archive ISLES2018_Training.zip: TRAINING/case_1/SMIR.Brain.XX.O.CT_CBF.345563/*.nii; copy at Zenodo, "
    "record 17736412",
    images=tuple(_name_smir_files(kind) for kind in ("CT", "CT_CBF", "CT_CBV", "CT_MTT", "CT_Tmax")),
    channels=("CT", "CBF", "CBV", "MTT", "Tmax"),
    labels={"lesion": 1},
    masks=(LabelValues(pattern=_name_smir_files("OT"), values={1: 1}),),
    case="{part}_{case}",
    held_out=r"(?:^|/)TESTING/",
    remarks=("the 94 cases are of 63 patients; the files do not tell which, so that no groups are written",),
)

STS_3D: Final = Layout(
    title="STS-3D: teeth in cone-beam CT, from the semi-supervised challenge STS 2023",
    reference="https://tianchi.aliyun.com/competition/entrance/532087",
    names_from="conversion scripts of participants: labelled/image and labelled/label with equal names, unlabelled",
    images=("**/labelled/image/{case}.nii.gz",),
    channels=("CBCT",),
    labels={"tooth": 1},
    masks=(LabelValues(pattern="**/labelled/label/{case}.nii.gz", values={1: 1}),),
    remarks=("images in unlabelled are left out",),
)
