"""One process of a test of distributed training: `python rank.py FOLDER`; what to train lies there as JSON."""

import json
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from autoseg.dataset.folds import Fold
from autoseg.document import parse_part
from autoseg.errors import TrainingError
from autoseg.labels import LabelScheme
from autoseg.plan import ChannelPlan, ConfigurationPlan
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import FoldFolder
from autoseg.runtime.distributed import ProcessGroup, join_process_group
from autoseg.training import loop
from autoseg.training.data.batch import Batch
from autoseg.training.data.training_data import TrainingData
from autoseg.training.learner import Learner
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


class Watch:
    """Makes trainings on the CPU late, as those on a GPU are, loses a loss, and counts steps and agreements."""

    def __init__(self, *, block: int | None, lost: int | None) -> None:
        self.steps = self.agreements = 0
        self.block, self.lost = block, lost

    @contextmanager
    def watch(self) -> Iterator[None]:
        launch, agree = loop.launch_training_step, ProcessGroup.are_any
        blocks = loop.STEPS_OF_A_BLOCK

        def launch_counted(learner: Learner, batch: Batch) -> Tensor:
            self.steps += 1
            return launch(learner, batch) * (math.nan if self.steps - 1 == self.lost else 1.0)

        def agree_counted(process_group: ProcessGroup, *own: bool) -> list[bool]:
            self.agreements += 1
            return agree(process_group, *own)

        loop.launch_training_step, ProcessGroup.are_any = launch_counted, agree_counted
        loop.STEPS_OF_A_BLOCK = {} if self.block is None else {"cpu": self.block}
        try:
            yield
        finally:
            loop.launch_training_step, ProcessGroup.are_any, loop.STEPS_OF_A_BLOCK = launch, agree, blocks


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    content = read_json(folder / "trainings.json")
    device = torch.device("cpu")
    with join_process_group(device) as process_group:
        losses, ends, counts = {}, {}, {}
        for name, (plan, labels) in content["trainings"].items():
            stop, watch = StopRequest(), Watch(block=content["blocks"].get(name), lost=content["lost"].get(name))
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
                    seconds_between_partial_checkpoints=0.0 if name in content["lost"] else 1e9,
                    largest_saving_share=1.0,
                    process_group=process_group,
                    stop=stop,
                ),
            )
            try:
                with watch.watch(), stop.handle_signals():
                    asked = pass_on(events, content["asked"].get(name), rank=process_group.rank)
                    losses[name] = [event.loss for event in asked]
            except KeyboardInterrupt as interruption:
                ends[name] = type(interruption).__name__
            except TrainingError as error:
                ends[name] = str(error)
            counts[name] = {"steps": watch.steps, "agreements": watch.agreements}
        (folder / f"told_{process_group.rank}.json").write_text(
            json.dumps({"losses": losses, "ends": ends, "counts": counts})
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
