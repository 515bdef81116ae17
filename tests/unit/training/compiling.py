"""Really compiles a tiny network, in a process without the type checks of the tests, which PyTorch cannot trace.

`python compiling.py PLAN.json`: the plan of a configuration and labels; prints what happened as JSON.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from torch._dynamo import register_backend

from autoseg.document import parse_part, write_document
from autoseg.labels import LabelScheme
from autoseg.plan import ConfigurationPlan
from autoseg.training.compiling_beside import CompilingTask
from autoseg.training.compiling_beside import main as compile_beside
from autoseg.training.data.batch import Batch
from autoseg.training.execution import TrainingExecution
from autoseg.training.execution_choice import choose_execution
from autoseg.training.learner import Learner
from autoseg.training.step import build_learner, run_training_step, run_validation_step
from autoseg.untrusted.json_reading import read_json

COMPILER = "aot_eager"  # traces and differentiates as every compiler does, and needs no C++ compiler
WAYS = {
    "plain": TrainingExecution(memory_format=torch.contiguous_format),
    "channels last": TrainingExecution(memory_format=torch.channels_last),
    "compiled": TrainingExecution(memory_format=torch.contiguous_format, compiler=COMPILER),
    "both": TrainingExecution(memory_format=torch.channels_last, compiler=COMPILER),
}


@register_backend
def refusing(graph: object, inputs: object) -> object:
    """A compiler that fails of every network."""
    msg = "no C++ compiler\nand much more"
    raise RuntimeError(msg)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    content = read_json(path)
    plan = parse_part(content["plan"], ConfigurationPlan, where="plan")
    labels = parse_part(content["labels"], LabelScheme, where="labels")
    image = torch.randn((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    batch = Batch(image=image, label_map=(image[:, 0] > 1).to(torch.int16))

    def build(execution: TrainingExecution) -> Learner:
        return build_learner(plan, labels, device=torch.device("cpu"), seed=0, execution=execution)

    losses = {}
    for name, way in WAYS.items():
        learner = build(way)
        losses[name] = [run_training_step(learner, batch) for _ in range(4)]
        learner.network.eval()
        losses[name].append(run_validation_step(learner, batch).loss)
    choices = {}
    for compiler in (COMPILER, "refusing"):
        told: list[str] = []
        taken = choose_execution(build, batch, iterations=10**9, announce=told.append, compiler=compiler)
        loss = run_training_step(build(taken), batch)
        choices[compiler] = {"told": told, "is_compiled": taken.compiler is not None, "loss": loss}
    task = CompilingTask(
        plan=plan,
        labels=labels,
        device="cpu",
        dtype="float32",
        compiler=COMPILER,
        is_channels_last=True,
        first_convolution="padded",
    )
    write_document(path.with_name("task.json"), task)
    compile_beside(path.with_name("task.json"))
    print(json.dumps({"losses": losses, "choices": choices}))  # noqa: T201 (for the test that started it)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of libraries that a compiler loads
    main(Path(sys.argv[1]))
