"""What the ImageNet recipes cost, computed: hours on 1, 8 and 64 GPUs.

    python tests/support/recipe_cost.py [--rate 5100] [--output docs/recipes.md]

The images a second of every network and image size follow from one measured or assumed figure, `--rate`: what one GPU
trains of Inception-v3 at 299 pixels. Other networks and sizes take time in proportion to their multiplications; several
GPUs scale as benchmarks/measuring/scaling_model.py predicts. These are estimates, to plan a run with, and not measurements.
"""

import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.measuring import Parser
from benchmarks.measuring.counting import Counts, counts
from benchmarks.measuring.scaling_model import INTERCONNECTS, model_from_rate
from engine.config.command_line import load_config
from engine.config.options import Config
from engine.config.recipes import RECIPES
from engine.faults.exit_status import run_entry_point
from engine.training.schedules import resolution_at
from inception import create_model

IMAGES = 1_281_167  # of ImageNet's training split (ILSVRC 2012)
GPUS = (1, 8, 64)
# "Good PyTorch" on one H200, bf16: images of Inception-v3 a second at 299 pixels, an estimate from its limits.
RATE = 5100.0


@cache
def counted(name: str, size: int) -> Counts:
    """One network at `size` pixels, without its auxiliary heads; two images, since one alone cannot be normalised."""
    return counts(partial(create_model, name, auxiliary=False), 2, size)


def hours(config: Config, rate: float, gpus: int) -> float:
    """Hours of training that `config` takes on `gpus` GPUs, evaluation and reading of data left out."""
    name, batch = config.network.name, config.data.global_batch_size
    assert batch is not None  # the recipes all say it
    full = config.data.resolution or create_model(name, auxiliary=False, width=0.1).input_size
    share = min(batch // gpus, 256)  # more than that does not fit: gradients are accumulated
    total = 0.0
    for epoch in range(config.schedule.epochs):
        work = counted(name, resolution_at(epoch, full, config.progressive))
        one_gpu = rate * counted("inception_v3", 299).macs / work.macs
        model = model_from_rate(one_gpu, 256, work.launches, 4.0 * work.parameters)
        step = model.step(gpus, share, INTERCONNECTS["nvlink+infiniband"])
        total += IMAGES / (share * gpus) * step
    return total / 3600


def page(rate: float) -> str:
    """The table as a page of Markdown."""
    lines = [f"""# Recipes

Each recipe is a file in `engine/recipes` whose first lines say where its values come from. Hours are computed by
`python tests/support/recipe_cost.py --rate {rate:g}`: one GPU that trains {rate:g} images of Inception-v3 a
second, time in proportion to multiplications, and scaling as `benchmarks/measuring/scaling_model.py` predicts for
NVLink nodes of eight on InfiniBand. They are estimates, not measurements; evaluation and reading of data are left out.

| recipe | network | epochs | global batch | {" | ".join(f"hours on {gpus} GPU" for gpus in GPUS)} |
|---|---|---|---|{"---|" * len(GPUS)}"""]  # fmt: skip
    for file in sorted(RECIPES.glob("imagenet_*.yaml")):
        config = load_config(["--recipe", file.stem, "--data.path", "unread"])
        cells = [f"[{file.stem}](../engine/recipes/{file.name})", config.network.name, str(config.schedule.epochs)]
        cells += [f"{config.data.global_batch_size:,}", *(f"{hours(config, rate, gpus):.1f}" for gpus in GPUS)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Prints the page, or writes it to a file."""
    parser = Parser("Hours that the ImageNet recipes take, computed.")
    parser.add_argument("--rate", type=float, default=RATE, help="images/s of Inception-v3 on one GPU")
    parser.add_argument("--output", type=Path, help="write the page here instead of printing it")
    options = parser.parse_args(arguments)
    if options.rate <= 0:
        parser.error(f"--rate must be above 0, not {options.rate:g}")
    if options.output:
        options.output.write_text(page(options.rate))
    else:
        print(page(options.rate), end="")
    return 0


if __name__ == "__main__":
    run_entry_point(main)
