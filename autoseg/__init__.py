"""Automatic configuration, training and running of medical image segmentation."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoseg.api import (
        OrientationWarning,
        PredictionOptions,
        SegmentationModel,
        evaluate_folder,
        export_model,
        import_model,
        load_model,
        plan_dataset,
        predict_images,
        predict_objects,
        predict_volume,
        select_models,
        synthesize_cases,
        train_run,
    )

__version__ = "0.1.0"
__all__ = [
    "OrientationWarning",
    "PredictionOptions",
    "SegmentationModel",
    "__version__",
    "evaluate_folder",
    "export_model",
    "import_model",
    "load_model",
    "plan_dataset",
    "predict_images",
    "predict_objects",
    "predict_volume",
    "select_models",
    "synthesize_cases",
    "train_run",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imports `autoseg.api`, and with it torch, when one of its names is used for the first time."""
        if name not in __all__:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        from autoseg import api

        return getattr(api, name)

    def __dir__() -> list[str]:
        """Names that Tab completes at a prompt, without importing them."""
        return list(__all__)
