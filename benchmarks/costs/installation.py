"""What the README's first command costs on machines that have nothing yet: seconds, bytes received and kept, and the accuracy
that the network comes to.

    python benchmarks/costs/installation.py bookworm trixie forky --keep records      roots of these releases of Debian
    python benchmarks/costs/installation.py here --quickstart="--python 3.13"         a new clone on this machine
    python benchmarks/costs/installation.py records/*.json                            what was recorded there or elsewhere

A record is the `quickstart.json` that launch/quickstart.sh leaves in its run directory. The table in docs/install.md is the
newest result's: give it all records at once.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.measuring import ROOT, BenchmarkError, Parser
from benchmarks.measuring.debian_root import copy_clone, debian_root
from benchmarks.measuring.machine import LoadMeter
from benchmarks.reporting.pages import DETAILS
from benchmarks.reporting.results import Result
from engine.faults.exit_status import DONE, run_entry_point

HERE = "here"
_CLONE = "/srv/inception training"
_HOURS = 3600.0


def main(arguments: Sequence[str]) -> int:
    parser = Parser("What the quickstart costs on machines that have nothing yet.")
    parser.add_argument(
        "places", nargs="+", metavar="PLACE", help="a release of Debian, 'here', or a record (a file's name)"
    )
    parser.add_argument("--quickstart", default="", metavar="OPTIONS", help="options of the quickstart in all of them")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the records made, by the places' names")
    options = parser.parse_args(arguments)
    result = Result("installation", options)
    for place in options.places:
        record = read_record(Path(place)) if place.endswith(".json") else _try(place, options.quickstart, result)
        add(result, record)
        if options.keep and not place.endswith(".json"):
            options.keep.mkdir(parents=True, exist_ok=True)
            name = "-".join([place, *options.quickstart.replace("--", "").split()])
            (options.keep / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    result.note(
        "bytes received: by all interfaces of the machine; on disk: the environment and the distribution's packages; "
        "others: their share of the processor's time, where this script made the record"
    )
    result.finish(*DETAILS)
    return DONE


def read_record(file: Path) -> dict[str, Any]:
    """The record in a file. Raises BenchmarkError saying what is wrong with it."""
    try:
        record = json.loads(file.read_text())
        complete = record["set_up"] is not None and record["top1"] is not None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{file} is not a record of the quickstart: {error!r}") from None
    if not complete:
        raise BenchmarkError(f"{file} is of a call that installed nothing: remove the environment and call it again")
    return record


def add(result: Result, record: dict[str, Any]) -> None:
    """Adds a record to the result as one row."""
    set_up = record["set_up"]
    case = {
        "distribution": set_up["system"],
        "python": record["python"],
        "processor": ", ".join(record["gpus"]) or f"{record['cores']} x {record['processor']}",
        "installer": set_up["installer"],
        "command": record["command"],
    }
    result.add(
        case,
        "seconds",
        record["seconds"],
        higher_is_better=False,
        received_bytes=set_up["received"],
        disk_bytes=set_up["disk"],
        set_up_seconds=set_up["seconds"],
        top1_share=record["top1"] / 100,
        others_share=record.get("others"),
        stages=set_up["stages"],
        left_out=set_up["left_out"],
    )


def _try(place: str, options: str, result: Result) -> dict[str, Any]:
    """The record of a quickstart at a place that this makes and removes. Raises BenchmarkError with the end of what it said
    where it fails."""
    command = f"bash launch/quickstart.sh {options}".strip()
    result.say(f"{place}: {command} ...")
    load = LoadMeter()
    with _clone_at(place) as (clone, run):
        done = run(command)
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()
            raise BenchmarkError(f"{place}: status {done.returncode}; it ends with: {' / '.join(said[-12:])}")
        result.say(done.stdout)
        record = json.loads((clone / "runs" / "quickstart" / "quickstart.json").read_text())
    return record | {"others": load.read()["others"]}


@contextmanager
def _clone_at(place: str) -> Iterator[tuple[Path, Callable[[str], subprocess.CompletedProcess[str]]]]:
    """A new clone, as this machine sees it, and what runs a command in it."""
    if place != HERE:
        with debian_root(place, Path(tempfile.mkdtemp(prefix=f"{place}-"))) as root:
            root.copy(ROOT, _CLONE)
            yield root.folder / _CLONE[1:], lambda command: root.run(f"cd '{_CLONE}' && {command}", timeout=2 * _HOURS)
        return
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "inception training"
        copy_clone(ROOT, clone)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("INCEPTION_", "PYTHON"))}
        yield (
            clone,
            lambda command: subprocess.run(
                shlex.split(command), cwd=clone, env=kept, capture_output=True, text=True, check=False
            ),
        )


if __name__ == "__main__":
    run_entry_point(main)
