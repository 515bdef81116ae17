"""Fields of displacements for elastic deformation, a part of the transform "deformation"."""

from typing import Annotated, Final, Literal

from pydantic import Field

from autoseg.document import Part
from autoseg.plan.values import LARGEST_EXTENT, LARGEST_RADIUS_VOXELS, Fraction

MOST_NODES: Final = 64


class ElasticPlan(Part):
    """Elastic deformation by a random field of displacements; every kind of field has parameters of its own.

    Attributes:
        field: Row of the kind in `ELASTIC_PLANS` and, of what computes it, in
            `autoseg.training.augmentation.displacements.FIELDS`.
        std_voxels: Standard deviation of the displacement along each axis, at the nodes of a grid or in every voxel.
    """

    field: str
    probability: Fraction
    std_voxels: Annotated[float, Field(ge=0, le=LARGEST_RADIUS_VOXELS)]


class CoarseGridField(ElasticPlan):
    """Normal displacements at the nodes of a coarse grid over the patch, between which cubic splines interpolate.

    In the U-Net of 2015 (Ronneberger et al., arXiv:1505.04597) there are 3 x 3 nodes and a standard deviation of 10
    voxels.
    """

    field: Literal["coarse_grid"] = "coarse_grid"
    nodes_per_axis: Annotated[int, Field(ge=2, le=MOST_NODES)]


class SpacedGridField(ElasticPlan):
    """The same with nodes at a fixed distance, whatever the patch.

    In the 3D U-Net (Cicek et al. 2016, arXiv:1606.06650) the distance is 32 voxels, the standard deviation 4 voxels.
    """

    field: Literal["spaced_grid"] = "spaced_grid"
    spacing_voxels: Annotated[float, Field(ge=1, le=LARGEST_EXTENT)]


class SmoothedField(ElasticPlan):
    """Independent displacements of all voxels, smoothed by a Gaussian and scaled (Simard et al. 2003).

    Attributes:
        sigma_voxels: Standard deviation of the Gaussian, the distance over which displacements are alike.
    """

    field: Literal["smoothed"] = "smoothed"
    sigma_voxels: Annotated[float, Field(gt=0, le=LARGEST_RADIUS_VOXELS)]


ELASTIC_PLANS: Final[dict[str, type[ElasticPlan]]] = {
    "coarse_grid": CoarseGridField,
    "spaced_grid": SpacedGridField,
    "smoothed": SmoothedField,
}
