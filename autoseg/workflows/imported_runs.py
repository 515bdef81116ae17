"""What runs that hold models of another tool cannot do."""

from autoseg.errors import RunError
from autoseg.inference.folds import is_import
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder


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
