"""What a short training makes of a rare class, for every loss: `python -m benchmarks.rare_class`.

Pictures of 64 x 64 pixels hold a disc with a radius of 18 pixels in noise; 60 % of them have a lesion of 3 x 3 pixels
inside of it (about 0.5 % of the foreground). The plan is that of the default planner, with a small network in it.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import autoseg
from autoseg.document import read_document
from autoseg.fingerprint import Fingerprint
from autoseg.plan import Plan
from autoseg.plan.document import ConfigurationPlan
from autoseg.run_folder import RunFolder, write_text
from autoseg.training.data.batch import Batch
from autoseg.training.step import build_learner, run_training_step
from benchmarks.machine import describe_machine
from planners import PLANNERS
from planners.losses.planner import find_rules

SIZE: Final = 64
RADIUS: Final = 18
LESION: Final = 3
LESION_SHARE: Final = 0.6
BATCH: Final = 4
CASES: Final = 40
TESTED: Final = 64
STAGES: Final = 3
FEATURES: Final = (8, 16, 32)
POWER: Final = 0.9  # of the decay of the learning rate
LOSSES: Final = (
    *("dice+cross_entropy", "dice+weighted_cross_entropy", "tversky+weighted_cross_entropy"),
    *("weighted_cross_entropy", "balanced_cross_entropy", "exponential_logarithmic", "focal", "tversky"),
    *("focal_tversky", "generalized_dice", "generalized_dice+cross_entropy", "boundary"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """One experiment.

    Attributes:
        contrast: Standard deviations of the noise by which discs are brighter than the background; lesions are brighter
            by twice as much.
        seed: Seed of pictures and weights.
        iterations: Length of the training.
        usual_start: Whether output layers begin as usual where the loss would begin with the shares of the classes.
    """

    contrast: float
    seed: int
    iterations: int
    usual_start: bool

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """Draws pictures with a mean of 0 and a standard deviation of 1, and their labels."""
        label_map = torch.zeros((count, SIZE, SIZE), dtype=torch.int16)
        for picture in label_map:
            _draw_labels(picture, generator)
        image = self.contrast * label_map + torch.randn(label_map.shape, generator=generator)
        image = (image - image.mean(dim=(1, 2), keepdim=True)) / image.std(dim=(1, 2), keepdim=True)
        return Batch(image=image[:, None], label_map=label_map)

    def train(self, configuration: ConfigurationPlan, plan: Plan) -> tuple[float, float]:
        """Trains with the loss of a configuration; returns the Dice of discs and of lesions in other pictures."""
        learner = build_learner(configuration, plan.labels, device=torch.device("cpu"), seed=self.seed)
        pictures = torch.Generator().manual_seed(self.seed)
        rate = configuration.training.initial_learning_rate
        for step in range(self.iterations):
            learner.set_learning_rate(rate * (1 - step / self.iterations) ** POWER)
            learner.set_progress(step / self.iterations)
            run_training_step(learner, self.draw(BATCH, pictures))
        tested = self.draw(TESTED, torch.Generator().manual_seed(self.seed + 2**20))
        learner.train(is_training=False)
        with torch.inference_mode():
            found = learner.network(tested.image)[0].argmax(dim=1)
        return _compute_dice(found, tested.label_map, 1), _compute_dice(found, tested.label_map, 2)


def _draw_labels(picture: Tensor, generator: torch.Generator) -> None:
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    y, x = (RADIUS + torch.rand(2, generator=generator) * (SIZE - 2 * RADIUS)).tolist()
    picture[(rows - y) ** 2 + (columns - x) ** 2 < RADIUS**2] = 1
    if torch.rand((), generator=generator) < LESION_SHARE:
        top, left = (
            int(centre + (torch.rand((), generator=generator) - 0.5) * RADIUS) - LESION // 2 for centre in (y, x)
        )
        picture[top : top + LESION, left : left + LESION] = 2


def _compute_dice(found: Tensor, expected: Tensor, label: int) -> float:
    both = ((found == label) & (expected == label)).sum()
    return float(2 * both / ((found == label).sum() + (expected == label).sum()))


def plan_toy(toy: Toy, folder: Path) -> tuple[Plan, Fingerprint]:
    """Writes a dataset of such pictures and plans it."""
    data, run = folder / "Dataset001_Discs", RunFolder(folder / "discs.autoseg")
    drawn = toy.draw(CASES, torch.Generator().manual_seed(toy.seed + 2**21))
    for index, (image, label_map) in enumerate(zip(drawn.image[:, 0], drawn.label_map, strict=True)):
        grey = (image * 20 + 100).clamp(0, 255).to(torch.uint8).numpy()
        for place, array in ((f"imagesTr/{index}_0000.png", grey), (f"labelsTr/{index}.png", np.uint8(label_map))):
            (data / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(array)).save(data / place)
    write_text(
        data / "dataset.json",
        f'{{"channel_names": {{"0": "noise"}}, "labels": {{"background": 0, "disc": 1, "lesion": 2}}, '
        f'"numTraining": {CASES}, "file_ending": ".png"}}',
    )
    autoseg.plan_dataset(data, run.root, planner=PLANNERS["default"], workers=1)
    return read_document(run.plan, Plan), read_document(run.fingerprint, Fingerprint)


def choose_configuration(toy: Toy, loss: str, plan: Plan, fingerprint: Fingerprint) -> ConfigurationPlan:
    """Chooses the terms of a loss for a small network."""
    planned = plan.configurations["2d"]
    network = planned.network.model_copy(
        update={
            "features_per_stage": FEATURES,
            "kernel_sizes": planned.network.kernel_sizes[:STAGES],
            "strides": planned.network.strides[:STAGES],
            "blocks_per_stage": (2,) * STAGES,
            "convolutions_per_decoder_stage": (2,) * (STAGES - 1),
        }
    )
    small = planned.model_copy(update={"network": network, "patch_voxels": (SIZE, SIZE)})
    terms = [term for rule in find_rules(loss) for term in rule.choose(fingerprint, small).value]
    if toy.usual_start:
        begun = {"initial_probabilities": ()}
        terms = [term.model_copy(update=begun) if hasattr(term, "initial_probabilities") else term for term in terms]
    return small.model_copy(update={"training": small.training.model_copy(update={"losses": tuple(terms)})})


def measure(toy: Toy, losses: list[str]) -> Iterator[tuple[str, float, float, float]]:
    """Trains with every loss; yields its name, the Dice of discs and of lesions, and the seconds of CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        plan, fingerprint = plan_toy(toy, Path(folder))
    for loss in losses:
        begun = time.process_time()
        discs, lesions = toy.train(choose_configuration(toy, loss, plan, fingerprint), plan)
        yield loss, discs, lesions, time.process_time() - begun


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", nargs="*", default=list(LOSSES), help="names as --loss takes them")
    parser.add_argument("--contrast", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--iterations", type=int, default=700)
    parser.add_argument("--usual-start", action="store_true", help="without initial probabilities")
    options = parser.parse_args()
    toy = Toy(contrast=options.contrast, seed=0, iterations=options.iterations, usual_start=options.usual_start)
    print(describe_machine())
    print("| `--loss` | seed | Dice of discs | Dice of lesions | seconds |\n|---|---|---|---|---|")
    for seed in options.seeds:
        for loss, discs, lesions, seconds in measure(replace(toy, seed=seed), options.losses):
            print(f"| `{loss}` | {seed} | {discs:.3f} | {lesions:.3f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
