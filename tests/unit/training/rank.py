"""One process of a test of distributed training: `python rank.py FOLDER`; what to train lies there as JSON."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from autoseg.dataset.folds import Fold
from autoseg.document import parse_part
from autoseg.labels import LabelScheme
from autoseg.plan import ChannelPlan, ConfigurationPlan
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import FoldFolder
from autoseg.runtime.distributed import join_process_group
from autoseg.training.data.training_data import TrainingData
from autoseg.training.monitoring.events import Event, IterationDone
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train
from autoseg.untrusted.json_reading import read_json


def pass_on(events: Iterator[Event], asked: list[int] | None, *, rank: int) -> Iterator[IterationDone]:
    """The iterations; one of the processes is asked to end after one of them, if that is wanted."""
    for count, event in enumerate(event for event in events if isinstance(event, IterationDone)):
        if asked == [rank, count]:
            signal.raise_signal(signal.SIGTERM)
        yield event


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    content = read_json(folder / "trainings.json")
    device = torch.device("cpu")
    with join_process_group(device) as process_group:
        losses, ends = {}, {}
        for name, (plan, labels) in content["trainings"].items():
            stop = StopRequest()
            events = train(
                parse_part(plan, ConfigurationPlan, where=name),
                TrainingData(
                    labels=parse_part(labels, LabelScheme, where=name),
                    channels=tuple(parse_part(channel, ChannelPlan, where=name) for channel in content["channels"]),
                    folder=Path(content["data"][name]),
                    fold=parse_part(content["fold"], Fold, where=name),
                ),
                output=FoldFolder(folder / name),
                options=TrainingOptions(
                    device=device,
                    seed=0,
                    workers=0,
                    seconds_between_checkpoints=0.0,
                    largest_saving_share=1.0,
                    process_group=process_group,
                    stop=stop,
                ),
            )
            try:
                with stop.handle_signals():
                    asked = pass_on(events, content["asked"].get(name), rank=process_group.rank)
                    losses[name] = [event.loss for event in asked]
            except KeyboardInterrupt as interruption:
                ends[name] = type(interruption).__name__
        (folder / f"told_{process_group.rank}.json").write_text(json.dumps({"losses": losses, "ends": ends}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
