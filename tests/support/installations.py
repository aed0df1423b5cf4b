"""A row of the table in docs/install.md, from the quickstart.json that the quickstart leaves in its run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from benchmarks.measuring.machine import LoadMeter


def row(record: Path, load: LoadMeter) -> str:
    """What a call cost that installed something: seconds, bytes received and kept, accuracy, and the share of the processor's
    time that others took since `load` was made."""
    found: dict[str, Any] = json.loads(record.read_text())
    set_up = found["set_up"]
    processor = ", ".join(found["gpus"]) or f"{found['cores']} x {found['processor']}"
    cells = [set_up["system"], found["python"], processor, set_up["installer"], found["command"]]
    cells += [f"{found['seconds']:,.0f}", f"{set_up['seconds']:.1f} s"]
    cells += ["" if size is None else decimal(size) for size in (set_up["received"], set_up["disk"])]
    cells += [f"{found['top1']:.1f}%", f"{load.read()['others']:.1%}"]
    return f"| {' | '.join(cells)} |"
