"""What can be said of runs that hold models of another tool, and what these runs cannot do."""

from autoseg.errors import RunError
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder


def is_import(run: RunFolder, plan: Plan) -> bool:
    """Whether a run holds imported models, and neither folds nor training data."""
    return plan.is_imported and not run.splits.exists()


def check_has_data(run: RunFolder, plan: Plan) -> None:
    """Checks that a run was made from a dataset.

    Raises:
        RunError: Its models were imported.
    """
    if is_import(run, plan):
        msg = (
            f"{run.root} holds imported models ({plan.planner}) and no training data: it predicts, but nothing can be "
            f"preprocessed or trained in it; to train, make another run: autoseg plan DATASET --run OTHER"
        )
        raise RunError(msg)
