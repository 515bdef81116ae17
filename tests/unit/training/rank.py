"""One process of a test of distributed training: `python rank.py FOLDER`; what to train lies there as JSON."""

import json
import sys
from pathlib import Path

import torch

from autoseg.document import parse_part, read_json
from autoseg.labels import LabelScheme
from autoseg.plan import ChannelPlan, ConfigurationPlan
from autoseg.run_folder import FoldFolder
from autoseg.training.distributed import joined_team
from autoseg.training.folds import Fold
from autoseg.training.loop import IterationDone, TrainingOptions, train


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    content = read_json(folder / "trainings.json")
    device = torch.device("cpu")
    with joined_team(device) as team:
        losses = {}
        for name, (plan, labels) in content["trainings"].items():
            events = train(
                parse_part(plan, ConfigurationPlan, where=name),
                parse_part(labels, LabelScheme, where=name),
                tuple(parse_part(channel, ChannelPlan, where=name) for channel in content["channels"]),
                data_folder=Path(content["data"][name]),
                fold=parse_part(content["fold"], Fold, where=name),
                output=FoldFolder(folder / name),
                options=TrainingOptions(
                    device=device,
                    seed=0,
                    workers=0,
                    seconds_between_checkpoints=0.0,
                    largest_saving_share=1.0,
                    team=team,
                ),
            )
            losses[name] = [event.loss for event in events if isinstance(event, IterationDone)]
        (folder / f"losses_{team.rank}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
