"""A check-up as text, as JSON, and as the list of images to leave out of training."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipelines.checking.dataset_check import Checkup, Image, Split
from pipelines.checking.image_check import DESCRIPTIONS, Condition
from pipelines.support.errors import DataError

_SHOWN = 5  # names of each kind in the text
_BARS = " ▁▂▃▄▅▆▇█"
# What a quarantine list may be asked to hold, beside every Condition: found by comparing images.
COMPARED = {
    "duplicate": "all but the first of the images of one class that show the same picture",
    "conflict": "images that show the same picture in several classes",
    "leak": "training images that the val split shows too",
}
UNUSABLE = (Condition.CORRUPT, Condition.TRUNCATED)


def kind_name(condition: Condition) -> str:
    """As options and JSON name it: "wrong_format"."""
    return (condition.name or "").lower()


KINDS = (*(kind_name(condition) for condition in Condition), *COMPARED)


def to_json(checkup: Checkup) -> dict:
    """Everything, with all names: what `--json` writes."""
    return {
        "path": str(checkup.location),
        "smallest": checkup.smallest,
        "splits": {name: _split_json(checkup, name, split) for name, split in checkup.splits.items()},
        "refused": checkup.refused,
        "not_examined": checkup.not_examined,
        "leaks": [_names(checkup, group) for group in checkup.leaks()],
        "conflicts": [_names(checkup, group) for group in checkup.conflicts()],
    }


def _split_json(checkup: Checkup, name: str, split: Split) -> dict:
    counts = class_counts(split)
    return {
        "images": len(split.records),
        "remarks": split.dataset.remarks,
        "passed_over": split.dataset.passed_over,
        "conditions": {
            kind_name(condition): [
                {"name": split.dataset.short_name(position), "reason": split.reasons.get(position, "")}
                for position in split.having(condition).tolist()
            ]
            for condition in Condition
        },
        "duplicates": [_names(checkup, group) for group in checkup.within(name)],
        "classes": {"counts": counts, "balance": balance(counts)},
        "sizes": sizes(split),
    }


def _names(checkup: Checkup, group: Iterable[Image]) -> list[dict]:
    return [{"split": image.split, "name": checkup.name(image), "class": checkup.class_of(image)} for image in group]


def class_counts(split: Split) -> dict[str, int]:
    """Images of each class."""
    counts = np.bincount(split.records["label"], minlength=len(split.dataset.classes))
    return dict(zip(split.dataset.classes, counts.tolist()))


def balance(counts: dict[str, int]) -> dict:
    """Smallest, median and largest class, and how many times the largest holds the smallest."""
    values = np.array(list(counts.values()))
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    return {
        "smallest": [least, counts[least]],
        "median": float(np.median(values)),
        "largest": [most, counts[most]],
        "ratio": counts[most] / counts[least] if counts[least] else None,
    }


def sizes(split: Split) -> dict:
    """Percentiles and histograms of width, height and aspect (width / height), of the images whose size is known."""
    known = split.records[split.records["width"] > 0]
    if not len(known):
        return {}
    width, height = known["width"].astype(float), known["height"].astype(float)
    result = {}
    for name, values in (("width", width), ("height", height), ("aspect", width / height)):
        counts, edges = np.histogram(values, bins=24)
        percentiles = np.percentile(values, [0, 5, 50, 95, 100])
        result[name] = {
            "percentiles": dict(zip(("0", "5", "50", "95", "100"), percentiles.round(3).tolist())),
            "histogram": {"counts": counts.tolist(), "edges": edges.round(3).tolist()},
        }
    return result


def to_text(checkup: Checkup) -> str:
    """What the terminal shows: each kind of finding with its number and a few names."""
    lines: list[str] = []
    for name, split in checkup.splits.items():
        lines += [f"{name}: {len(split.records):,} images, {len(split.dataset.classes):,} classes"]
        lines += [f"  {remark}" for remark in split.dataset.remarks]
        for condition in Condition:
            positions = split.having(condition)
            if len(positions):
                what = DESCRIPTIONS[condition]
                if condition == Condition.TINY:
                    what = f"smaller than {checkup.smallest} pixels"
                lines.append(f"  {len(positions):>9,}  {kind_name(condition).replace('_', ' ')}: {what}")
                lines += _examples(split, positions)
        duplicates = checkup.within(name)
        if duplicates:
            extra = sum(len(group) - 1 for group in duplicates)
            lines.append(f"  {extra:>9,}  duplicate: pictures that are there more than once: {len(duplicates):,}")
            lines += _pairs(checkup, duplicates)
        lines += [f"  {'classes:':<10} {_balance_text(class_counts(split))}", *_sizes_text(split)]
    for what, groups in (("leak: pictures that are in train and in val", checkup.leaks()),
                         ("conflict: pictures that are in several classes", checkup.conflicts())):  # fmt: skip
        if groups:
            lines += [f"{len(groups):,} {what}", *_pairs(checkup, groups)]
    lines += [f"training refuses: {line}" for line in checkup.refused]
    lines += [f"not examined: {line}" for lines_of in checkup.not_examined.values() for line in lines_of]
    unusable = sum(len(split.having(UNUSABLE[0] | UNUSABLE[1])) for split in checkup.splits.values())
    sound = "every image that was examined can be" if checkup.not_examined else "every image can be"
    lines.append(f"{unusable:,} images cannot be used as they are" if unusable else f"{sound} decoded wholly")
    return "\n".join(lines)


def _examples(split: Split, positions: np.ndarray) -> list[str]:
    lines = []
    for position in positions[:_SHOWN].tolist():
        reason = split.reasons.get(position, "")
        lines.append(f"             {split.dataset.short_name(position)}{f' ({reason})' if reason else ''}")
    return [*lines, *_rest(len(positions))]


def _pairs(checkup: Checkup, groups: list[list[Image]]) -> list[str]:
    lines = []
    for group in groups[:_SHOWN]:
        names = [f"{image.split} {checkup.name(image)}" for image in group[:3]]
        more = f" and {len(group) - 3} more" if len(group) > 3 else ""
        lines.append(f"             {' = '.join(names)}{more}")
    return [*lines, *_rest(len(groups))]


def _rest(count: int) -> list[str]:
    return [f"             and {count - _SHOWN:,} more"] if count > _SHOWN else []


def _balance_text(counts: dict[str, int]) -> str:
    found = balance(counts)
    (least, fewest), (most, largest) = found["smallest"], found["largest"]
    if fewest == largest:
        return f"{fewest:,} images each"
    return f"{fewest:,} images ({least}) to {largest:,} ({most}), median {found['median']:,.0f}"


def _sizes_text(split: Split) -> list[str]:
    """A line each for width, height and aspect: a histogram between its ends, and where most images lie."""
    lines = []
    for name, found in sizes(split).items():
        low, fifth, middle, ninety_fifth, high = found["percentiles"].values()
        counts = found["histogram"]["counts"]
        bars = "".join(_BARS[-(-count * (len(_BARS) - 1) // max(counts))] for count in counts)
        digits = 2 if name == "aspect" else 0
        spread = f"median {middle:.{digits}f}, 5% to 95%: {fifth:.{digits}f} to {ninety_fifth:.{digits}f}"
        lines.append(f"  {name + ':':<10} {low:>5.{digits}f} {bars} {high:<5.{digits}f}  {spread}")
    return lines


def to_quarantine(checkup: Checkup, split: str, kinds: Iterable[str]) -> tuple[str, int]:
    """The text of a quarantine list of one split, and how many images it names: those of the kinds given, each under a
    comment that says why; DataError when a name cannot be written so."""
    chosen: dict[int, str] = {}
    for kind in kinds:
        for position in _positions(checkup, split, kind):
            chosen.setdefault(position, kind)
    dataset = checkup.splits[split].dataset
    lines = [f"# Images of {dataset.path} ({split}) to leave out, one a line; written by pipelines/doctor.py"]
    previous = ""
    for position, kind in sorted(chosen.items(), key=lambda item: (list(kinds).index(item[1]), item[0])):
        if kind != previous:
            lines.append(f"# {kind}")
            previous = kind
        name = dataset.short_name(position)
        if name != name.strip() or name.startswith("#") or "\n" in name:
            raise DataError(
                f"{name!r} cannot stand in a quarantine list; rename it, without blanks around it or a leading #"
            )
        lines.append(name if split == "train" else f"{split}/{name}")  # so that lists of both splits can be joined
    return "\n".join(lines) + "\n", len(chosen)


def _positions(checkup: Checkup, split: str, kind: str) -> list[int]:
    if kind == "duplicate":
        conflicts = {tuple(group) for group in checkup.conflicts()}
        groups = [group for group in checkup.within(split) if tuple(group) not in conflicts]
        return [image.position for group in groups for image in group[1:]]
    if kind in COMPARED:
        groups = checkup.leaks() if kind == "leak" else checkup.conflicts()
        return [image.position for group in groups for image in group if image.split == split]
    return checkup.splits[split].having(Condition[kind.upper()]).tolist()


def write_text(file: Path, text: str) -> None:
    """Write a result, with the bytes of names that are no UTF-8 as they are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
