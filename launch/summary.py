"""The table that ends the quickstart: `python launch/summary.py RUN_DIRECTORY` reads what the run left behind."""

import json
import sys
from pathlib import Path


def rows(run: Path) -> list[tuple[str, str]]:
    """(what, figure) of a finished run with its evaluation."""
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    end = next(row for row in reversed(recorded) if row["kind"] == "end")
    rates = sorted(row["images_per_second"] for row in recorded if row["kind"] == "train")
    evaluation = json.loads((run / "evaluation.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    target = end["seconds_to_target"]
    return [
        ("machine", ", ".join(environment["gpus"]) or f"{environment['processor']}, {environment['cores']} cores"),
        ("epochs trained", f"{end['epoch']:g}"),
        ("seconds of training", f"{end['time']:.0f}"),
        ("images a second (median)", f"{rates[len(rates) // 2]:.0f}"),
        ("target reached", f"after {target:.0f} s" if target is not None else "no"),
        ("top-1 / top-5", f"{evaluation['top1']:.2f}% / {evaluation['top5']:.2f}% of {evaluation['count']} images"),
        ("best weights", str(run / "checkpoints" / "best.safetensors")),
        ("predictions", str(run / "predictions.png")),
        ("report", str(run / "report.html")),
    ]


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: launch/summary.py RUN_DIRECTORY", file=sys.stderr)
        return 2
    for what, figure in rows(Path(sys.argv[1])):
        print(f"  {what:<26} {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
