"""SLURM's compact notation for nodes and tasks, written out."""

import re

_GROUP = re.compile(r"\[([^\[\]]+)\]")
_NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")
_TASKS = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def expand_nodes(nodelist: str) -> list[str]:
    """The nodes that a SLURM list names, in its order: `gpu[08-10,12],login` is gpu08, gpu09, gpu10, gpu12, login.

    Several groups in one name multiply (`rack[1-2]n[1-2]`). Raises ValueError when it is no such list.
    """
    return [name for part in _split(nodelist) for name in _expand(part)]


def expand_tasks(counts: str) -> list[int]:
    """Tasks of each node in SLURM's notation: `8(x2),4` is 8, 8, 4. Raises ValueError when it is no such list."""
    tasks: list[int] = []
    for part in counts.split(","):
        match = _TASKS.fullmatch(part)
        if not match:
            raise ValueError(f"{counts!r} is not a SLURM list of counts")
        tasks += [int(match[1])] * int(match[2] or 1)
    return tasks


def _split(nodelist: str) -> list[str]:
    """Cuts at the commas outside of brackets."""
    parts = re.findall(r"(?:\[[^\[\]]*\]|[^,\[\]])+", nodelist)
    if ",".join(parts) != nodelist or not parts:
        raise ValueError(f"{nodelist!r} is not a SLURM node list")
    return parts


def _expand(name: str) -> list[str]:
    group = _GROUP.search(name)
    if group is None:
        if "[" in name:
            raise ValueError(f"{name!r} is not a SLURM node list: empty brackets")
        return [name]
    numbers: list[str] = []
    for item in group[1].split(","):
        match = _NUMBERS.fullmatch(item)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"{name!r} is not a SLURM node list: {item!r} is not a number or a range of numbers")
        first, last = match[1], match[2] or match[1]
        # Leading zeros are part of the name: 08-10 is 08, 09, 10.
        numbers += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    head, tail = name[: group.start()], name[group.end() :]
    return [head + number + rest for number in numbers for rest in _expand(tail)]
