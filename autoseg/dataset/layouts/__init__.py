"""Layouts of public datasets that `autoseg convert` reads, in the table `LAYOUTS`."""

from collections.abc import Mapping
from typing import Final

from autoseg.dataset.layouts.layout import Layout
from autoseg.dataset.layouts.microscopy import DSB_2018, GLAS, ISBI_2012, MONUSEG, PHC_U373
from autoseg.dataset.layouts.photographs import (
    BUSI,
    CARVANA,
    COCO,
    CVC_CLINICDB,
    CVC_CLINICDB_TIFF,
    CVC_COLONDB,
    CVC_COLONDB_PNG,
    DRIVE,
    ISIC_2018,
    KVASIR_SEG,
    REFUGE2,
)
from autoseg.dataset.layouts.volumes import (
    ACDC,
    COVID19_CT,
    ISLES_2018,
    NIH_PANCREAS,
    NIH_PANCREAS_DICOM,
    STS_3D,
    SYNAPSE,
)

LAYOUTS: Final[Mapping[str, tuple[Layout, ...]]] = {
    "synapse": (SYNAPSE,),
    "nih-pancreas": (NIH_PANCREAS, NIH_PANCREAS_DICOM),
    "covid19-ct": (COVID19_CT,),
    "acdc": (ACDC,),
    "isles2018": (ISLES_2018,),
    "sts-3d": (STS_3D,),
    "kvasir": (KVASIR_SEG,),
    "cvc-clinicdb": (CVC_CLINICDB, CVC_CLINICDB_TIFF),
    "cvc-colondb": (CVC_COLONDB, CVC_COLONDB_PNG),
    "isic2018": (ISIC_2018,),
    "busi": (BUSI,),
    "drive": (DRIVE,),
    "refuge2": (REFUGE2,),
    "carvana": (CARVANA,),
    "glas": (GLAS,),
    "monuseg": (MONUSEG,),
    "dsb2018": (DSB_2018,),
    "isbi2012": (ISBI_2012,),
    "phc-u373": (PHC_U373,),
    "coco": (COCO,),
}
"""Layouts by name; of several variants, the first that fits is taken."""
