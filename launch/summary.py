"""The table that ends the quickstart, and its record: `python launch/summary.py RUN_DIRECTORY` reads what the run left behind."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def rows(run: Path) -> list[tuple[str, str]]:
    """(what, figure) of a finished run with its evaluation."""
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    end = next(row for row in reversed(recorded) if row["kind"] == "end")
    rates = sorted(row["images_per_second"] for row in recorded if row["kind"] == "train")
    evaluation = json.loads((run / "best_evaluation.json").read_text())
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


def record(run: Path, command: str, seconds: float) -> dict[str, Any]:
    """What a call of the quickstart took and came to. `set_up` is what launch/setup.sh recorded of it, None where it had
    nothing to do."""
    evaluation = json.loads((run / "best_evaluation.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    set_up = run / "setup.json"
    return {
        "command": command,
        "seconds": seconds,
        "set_up": json.loads(set_up.read_text()) if set_up.exists() else None,
        **{name: environment[name] for name in ("python", "processor", "cores", "gpus", "packages")},
        **{name: evaluation[name] for name in ("top1", "top5", "count")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="launch/summary.py", allow_abbrev=False)
    parser.add_argument("run", type=Path, help="directory of the quickstart's run")
    parser.add_argument("--command", default="", help="what was called")
    parser.add_argument("--seconds", type=float, default=0.0, help="since it was called")
    options = parser.parse_args()
    for what, figure in rows(options.run):
        print(f"  {what:<26} {figure}")
    if options.command:
        kept = record(options.run, options.command, options.seconds)
        (options.run / "quickstart.json").write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
