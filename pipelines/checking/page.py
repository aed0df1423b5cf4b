"""A check-up as one HTML page that needs nothing else: numbers, charts, and small pictures of what was found."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import simplejpeg
from PIL import Image as Pillow

from pipelines.checking.dataset_check import Checkup, Image, Split
from pipelines.checking.image_check import DESCRIPTIONS, Condition, upright
from pipelines.checking.text import balance, class_counts, kind_name, sizes
from pipelines.decoding.colour import upright_rgb

_SIDE = 112  # pixels of a small picture
_SHOWN = 24  # pictures of each kind
_GROUPS_SHOWN = 12
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a7fb5; --bad: #b5473a; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1080px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; } h3 small, .quiet { font-weight: normal; opacity: .7; }
table { border-collapse: collapse; } td, th { padding: .15rem 1.2rem .15rem 0; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; } tr.bad td { color: var(--bad); }
.pictures, .charts { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; } .charts { gap: 32px; }
figure { margin: 0; width: 120px; } figcaption { font-size: 11px; line-height: 1.3; overflow-wrap: anywhere; opacity: .8; }
figure img, .none { width: 112px; height: 112px; object-fit: contain; background: #8882; }
.none { display: flex; align-items: center; justify-content: center; font-size: 11px; opacity: .6; }
.group { display: flex; gap: 8px; padding: 8px; border: 1px solid var(--line); border-radius: 6px; }
svg text { font-size: 11px; fill: currentColor; opacity: .7; } svg rect { fill: var(--bar); }
"""


def to_page(checkup: Checkup) -> str:
    """The page's HTML."""
    total = sum(len(split.records) for split in checkup.splits.values())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>Check-up of {escape(checkup.title)}</title><style>{_STYLE}</style>",
        f"<h1>Check-up of {escape(checkup.title)}</h1>",
        f"<p class=quiet>{escape(str(checkup.location))}: {total:,} images, each decoded once</p>",
        _overview(checkup),
    ]
    for name, split in checkup.splits.items():
        parts.append(f"<h2>{name}</h2>")
        parts.append(_charts(split))
        for condition in Condition:
            parts.append(_pictures(checkup, name, split, condition))
        parts.append(_groups(checkup, "Duplicates", "the same picture more than once", checkup.within(name)))
    parts.append(_groups(checkup, "Leaks", "the same picture in train and in val", checkup.leaks()))
    parts.append(_groups(checkup, "Conflicts", "the same picture in several classes", checkup.conflicts()))
    return "\n".join(part for part in parts if part) + "\n"


def _overview(checkup: Checkup) -> str:
    names = list(checkup.splits)
    rows = ["<tr><th></th>" + "".join(f"<th class=number>{name}</th>" for name in names) + "<th></th></tr>"]
    rows.append(_row("images", [len(split.records) for split in checkup.splits.values()], "", False))
    for condition in Condition:
        counts = [len(split.having(condition)) for split in checkup.splits.values()]
        bad = condition in (Condition.CORRUPT, Condition.TRUNCATED)
        rows.append(_row(kind_name(condition).replace("_", " "), counts, DESCRIPTIONS[condition], bad))
    copies = [sum(len(group) - 1 for group in checkup.within(name)) for name in names]
    rows.append(_row("duplicate", copies, "show a picture that was there before", False))
    for label, groups in (("leak", checkup.leaks()), ("conflict", checkup.conflicts())):
        counts = [sum(image.split == name for group in groups for image in group) for name in names]
        what = "in train and in val" if label == "leak" else "the same picture in several classes"
        rows.append(_row(label, counts, what, True))
    return f"<table>{''.join(rows)}</table>"


def _row(name: str, counts: Sequence[int], what: str, bad: bool) -> str:
    numbers = "".join(f"<td class=number>{count:,}</td>" for count in counts)
    mark = " class=bad" if bad and any(counts) else ""
    return f"<tr{mark}><td>{name}</td>{numbers}<td class=quiet>{what}</td></tr>"


def _charts(split: Split) -> str:
    counts = class_counts(split)
    found = balance(counts)
    (least, fewest), (most, largest) = found["smallest"], found["largest"]
    ordered = sorted(counts.values(), reverse=True)
    caption = f"{fewest:,} ({escape(least)}) to {largest:,} ({escape(most)}) images"
    charts = [_bars("Images of each class", ordered, caption)]
    for name, values in sizes(split).items():
        edges, unit = values["histogram"]["edges"], "" if name == "aspect" else " pixels"
        caption = f"{edges[0]:g} to {edges[-1]:g}{unit}, middle {values['percentiles']['50']:g}"
        title = "Width / height" if name == "aspect" else name.capitalize()
        charts.append(_bars(title, values["histogram"]["counts"], caption))
    return f"<div class=charts>{''.join(charts)}</div>"


def _bars(title: str, values: Sequence[float], caption: str) -> str:
    """A bar chart as SVG; a thousand bars at most, each the mean of its neighbours when there are more."""
    width, height = 240, 90
    if len(values) > width:
        values = [float(np.mean(part)) for part in np.array_split(np.array(values), width)]
    top, step = max(values) or 1, width / len(values)
    bars = "".join(
        f'<rect x="{number * step:.2f}" y="{height - height * value / top:.2f}" '
        f'width="{max(step - (1 if step > 3 else 0), 0.5):.2f}" height="{height * value / top:.2f}"/>'
        for number, value in enumerate(values)
    )
    return (
        f'<div><h3>{title}</h3><svg width="{width}" height="{height + 18}" role="img">{bars}'
        f'<text x="0" y="{height + 14}">{caption}</text></svg></div>'
    )


def _pictures(checkup: Checkup, name: str, split: Split, condition: Condition) -> str:
    positions = split.having(condition)
    if not len(positions):
        return ""
    title = "CMYK" if condition == Condition.CMYK else kind_name(condition).replace("_", " ").capitalize()
    shown = "".join(_figure(checkup, Image(name, position)) for position in positions[:_SHOWN].tolist())
    return f"{_title(title, len(positions), DESCRIPTIONS[condition], _SHOWN)}<div class=pictures>{shown}</div>"


def _groups(checkup: Checkup, title: str, what: str, groups: list[list[Image]]) -> str:
    if not groups:
        return ""
    shown = "".join(
        f"<div class=group>{''.join(_figure(checkup, image, True) for image in group[:4])}</div>"
        for group in groups[:_GROUPS_SHOWN]
    )
    return f"{_title(title, len(groups), what, _GROUPS_SHOWN)}<div class=pictures>{shown}</div>"


def _title(title: str, count: int, what: str, most: int) -> str:
    first = f", the first {most} shown" if count > most else ""
    return f"<h3>{title} <small>{count:,}: {what}{first}</small></h3>"


def _figure(checkup: Checkup, image: Image, with_split: bool = False) -> str:
    split = checkup.splits[image.split]
    name = f"{image.split} {checkup.name(image)}" if with_split else checkup.name(image)
    reason = split.reasons.get(image.position, "")
    record = split.records[image.position]
    size = f"{record['width']} x {record['height']}" if record["width"] else ""
    picture = _small(split, image.position)
    shown = f'<img src="data:image/jpeg;base64,{picture}" alt="">' if picture else "<div class=none>no picture</div>"
    caption = "<br>".join(escape(text.encode(errors="replace").decode()) for text in (name, size, reason) if text)
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _small(split: Split, position: int) -> str:
    """A small JPEG in base64, with gray where data are missing; nothing when there is nothing to show."""
    try:
        data = split.dataset.read(position)
        try:
            stored = simplejpeg.decode_jpeg(data, "RGB", strict=False)
            _, orientation = split.dataset.flags(np.array([position]))
            picture = Pillow.fromarray(np.ascontiguousarray(upright(stored, int(orientation[0]))))
        except ValueError:  # CMYK, or no JPEG
            with Pillow.open(io.BytesIO(data.data)) as image:
                picture = upright_rgb(image)
    except Exception:  # whatever is wrong with it stands beside it already
        return ""
    picture.thumbnail((2 * _SIDE, 2 * _SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
