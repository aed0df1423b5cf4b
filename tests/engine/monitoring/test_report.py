"""The page of a run: complete for any state of a run directory, self-contained, small, and harmless to training."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from constructed_run import construct_run
from engine.config.options import ConfigError
from engine.monitoring.report.charts import axis, number
from engine.monitoring.report.data import class_scores, confused_pairs, curve, duration, read_run, state_of, time_spent
from engine.monitoring.report.page import write_report
from engine.monitoring.report.writer import ReportWriter
from runs import rows


class Page(HTMLParser):
    """The page's text, its tags with their attributes, and whether every tag is closed."""

    VOID = ("meta", "input", "img", "br", "line", "circle", "polyline", "polygon", "link")

    def __init__(self, path: Path):
        super().__init__()
        self.text, self.tags, self.open = "", [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data + " "

    def having(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Page:
    run = construct_run(tmp_path_factory.mktemp("runs") / "finished", gpu=True, resumed_in=7, ended="target")
    return Page(write_report(run))


def test_a_finished_run_shows_everything(finished):
    assert finished.open == []
    headings = (
        "Curves",
        "Where the time went",
        "What the network takes for what",
        "Events",
        "Configuration",
        "Environment",
    )
    for heading in headings:
        assert heading in finished.text
    for title in ("Accuracy", "Loss", "Throughput", "Learning rate", "GPU utilisation", "Images per joule"):
        assert [tag["aria-label"] for tag in finished.having("svg")].count(title) == 2  # by epoch and by time
    assert "target reached" in finished.text
    assert "resumed" in finished.text
    assert "30 of 30" in finished.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, None),
        ({"loss.label_smoothing": 0.1}, "label smoothing of 0.1"),
        ({"network.name": "inception_v3"}, "auxiliary classifiers' losses"),
        ({"network.name": "inception_v3", "network.auxiliary": False}, None),
        ({"network.auxiliary": True, "augmentation.mixup": 0.2}, "mixup and auxiliary classifiers' losses"),
        ({"network.auxiliary": True, "loss.auxiliary_weight": 0.0}, None),
        ({"loss.name": "bce", "loss.class_weights": "balanced"}, "binary cross-entropy and weights of classes"),
        ({"distillation.teacher": "runs/v4"}, "a teacher's answers"),
    ],
)
def test_losses_share_a_chart_only_where_they_are_the_same_sum(tmp_path, options, words):
    run = construct_run(tmp_path / "run")
    tree = yaml.safe_load((run / "config.yaml").read_text())
    for key, value in options.items():
        section, name = key.split(".")
        tree[section][name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    titles = {tag["aria-label"] for tag in Page(write_report(run)).having("svg") if "oss" in tag["aria-label"]}
    assert titles == ({f"Training loss, with {words}", "Loss on val, cross-entropy alone"} if words else {"Loss"})


def test_runs_of_several_labels_show_the_precision_by_which_they_are_chosen(tmp_path):
    run = construct_run(tmp_path / "run")
    tree = yaml.safe_load((run / "config.yaml").read_text())
    tree["loss"]["name"] = "bce"
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if row["kind"] == "eval"]
    for later, row in enumerate(evaluations):
        row["map"] = 50.0 - later
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(write_report(run))
    assert "best mAP" in page.text
    assert "50.00%" in page.text
    assert "Loss" in [tag.get("aria-label") for tag in page.having("svg")]  # evaluation measures the same sum
    tree["network"]["auxiliary"] = True
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    titles = [tag.get("aria-label") for tag in Page(write_report(run)).having("svg")]
    assert "Loss on val, binary cross-entropy alone" in titles


def test_the_page_loads_nothing(finished):
    for _, attributes in finished.tags:
        for name in ("src", "href", "srcset", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:")
    assert finished.having("link") == []


def test_pictures_are_inline_with_both_class_names(finished):
    pictures = finished.having("img")
    assert len(pictures) == 24
    assert all(picture["src"].startswith("data:image/jpeg;base64,/9j/") for picture in pictures)
    assert re.search(r"class <1> & co\s+90%\s+is class <0> & co", finished.text)


def test_every_curve_stays_inside_its_chart(finished):
    for line in finished.having("polyline"):
        for point in line["points"].split():
            x, y = map(float, point.split(","))
            assert 46 <= x <= 448.05, point
            assert 9.95 <= y <= 194, point


@pytest.mark.parametrize("ended", [None, "completed"])
@pytest.mark.parametrize(("classes", "picture"), [(10, None), (100, "png"), (1000, "png")])
def test_a_long_run_of_many_classes_makes_a_small_page(tmp_path, ended, classes, picture):
    run = construct_run(tmp_path, classes=classes, epochs=90, rows=30, ended=ended)
    path = write_report(run)
    assert path.stat().st_size < 500_000
    page = Page(path)
    maps = [image for image in page.having("img") if image["src"].startswith("data:image/png")]
    assert len(maps) == (picture is not None)
    assert ("unfinished" in page.text) == (ended is None)
    assert max(len(line["points"].split()) for line in page.having("polyline")) <= 240


def test_a_run_of_one_row_has_a_page(tmp_path):
    run = construct_run(tmp_path, epochs=1, rows=1, ended=None)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[0] + '\n{"kind": "tra')  # and one cut off in mid-write
    (run / "evaluation.json").unlink()
    page = Page(write_report(run))
    assert len(page.having("circle")) == 2 * len(page.having("polyline")) / 2
    assert "not ended as of" in page.text


def test_a_run_that_has_not_begun_has_a_page(tmp_path):
    run = construct_run(tmp_path, epochs=1, ended=None)
    for name in ("metrics.jsonl", "evaluation.json", "environment.json"):
        (run / name).unlink()
    assert "no step is recorded yet" in Page(write_report(run)).text


def test_an_interrupted_run_says_how_it_goes_on(tmp_path):
    run = construct_run(tmp_path, epochs=2, ended=None)
    position = {"step": 200, "epoch": 2.0, "samples": 12800, "time": 30.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"kind": "event", **position, "event": "unreadable", "sample": "a<b.jpg", "reason": "bad"})
        )
        file.write("\n" + json.dumps({"kind": "event", **position, "event": "preempted"}) + "\n")
    assert state_of(read_run(run))[0] == "interrupted"
    page = Page(write_report(run))
    assert "the same command continues" in page.text
    assert "unreadable: a<b.jpg: bad" in page.text


def test_only_options_that_differ_from_their_defaults_are_bold(tmp_path):
    page = Page(write_report(construct_run(tmp_path, epochs=3)))
    changed = [attributes for tag, attributes in page.tags if tag == "div" and attributes.get("class") == "changed"]
    assert len(changed) == 2  # run.dir and schedule.epochs


def test_the_time_of_a_run_is_accounted_for_without_rest(tmp_path):
    run = read_run(construct_run(tmp_path, epochs=4, rows=5))
    spans = {span.key: span.seconds for span in time_spent(run)}
    assert sum(spans.values()) == pytest.approx(run.rows[-1]["time"])
    assert spans["forward"] == pytest.approx(0.28 * 4 * 5 * 2.0)
    assert spans["evaluation"] == pytest.approx(4 * 1.5)
    assert spans["rest"] == pytest.approx(12.0)


def test_rows_without_phases_count_as_the_rows_that_have_them(tmp_path):
    file = construct_run(tmp_path, epochs=1, rows=4) / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    del lines[0]["forward_fraction"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spans = {span.key: span.seconds for span in time_spent(read_run(tmp_path))}
    assert spans["forward"] == pytest.approx(0.28 * 8.0)


FOUND = {
    "classes": ["ant", "bee", "cat"],
    "images": [10, 10, 0],
    "right": [6, 9, 0],
    "matrix": [[0, 0, 6], [0, 1, 3], [0, 2, 1], [1, 0, 1], [1, 1, 9]],
}


def test_the_worst_class_comes_first_with_what_it_is_taken_for():
    assert class_scores(FOUND) == [("ant", 10, 6, "bee", 3), ("bee", 10, 9, "ant", 1)]


def test_confusion_counts_both_directions():
    assert confused_pairs(FOUND) == [("ant", "bee", 3, 1), ("ant", "cat", 1, 0)]


def test_a_curve_keeps_its_mean_and_range_when_it_is_thinned():
    rows = [{"epoch": k / 10, "time": float(k), "loss": float(k % 7)} for k in range(1000)]
    points = curve(rows, "loss", factor=2.0, most=100)
    assert len(points) == 100
    assert sum(point.value for point in points) / 100 == pytest.approx(2 * sum(k % 7 for k in range(1000)) / 1000)
    assert {(point.low, point.high) for point in points} == {(0.0, 12.0)}
    assert curve([{"epoch": 0.0, "time": 0.0}], "loss") == []


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 97, [0, 25, 50, 75, 100]),
        (0.91, 2.31, [0.5, 1.0, 1.5, 2.0, 2.5]),
        (3, 3, [3, 4, 5, 6]),
        (0, 0, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_axes_have_round_ticks_around_the_data(low, high, ticks):
    assert axis(low, high).ticks == pytest.approx(ticks)


def test_numbers_and_durations_read_well():
    shown = {12345.6: "12,346", 640.4: "640", 12.34: "12.3", 1.234: "1.23", 0.0826: "0.0826", 100: "100"}
    assert {value: number(value) for value in shown} == shown
    assert [duration(value) for value in (3.04, 245, 12000)] == ["3.0 s", "4 min 05 s", "3 h 20 min"]


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is no run directory"):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written_is_told_and_training_goes_on(tmp_path):
    run, told = construct_run(tmp_path, epochs=1), []
    (run / "report.html").mkdir()
    writer = ReportWriter(run, told.append)
    writer.update()
    writer.close()
    assert len(told) == 1
    assert "the report could not be written: IsADirectoryError" in told[0]


def test_requests_during_a_slow_write_are_caught_up_with_at_the_end(tmp_path):
    import threading

    run, told = construct_run(tmp_path, epochs=1, ended=None), []
    writer, hold = ReportWriter(run, told.append), threading.Event()
    writer.submit(hold.wait)
    writer.update()
    with (run / "metrics.jsonl").open("a") as file:
        end = {"reason": "completed", "best_top1": 1.0, "seconds_to_target": None}
        file.write(json.dumps({"kind": "end", "step": 100, "epoch": 1, "samples": 6400, "time": 30.0, **end}) + "\n")
    writer.update()  # the first page is not written yet: training does not wait here
    hold.set()
    writer.close()
    assert told == []
    assert "all epochs are done" in Page(run / "report.html").text


def test_a_real_run_leaves_its_page_and_the_entry_point_writes_the_same(real_run, run_command):
    page = Page(real_run / "report.html")
    found = json.loads((real_run / "evaluation.json").read_text())
    last = rows(real_run, "eval")[-1]
    assert sum(count for _, _, count in found["matrix"]) == sum(found["images"]) == last["count"] == 30
    right = sum(count for true, guess, count in found["matrix"] if true == guess)
    assert right == sum(found["right"])
    assert last["top1"] == pytest.approx(100 * right / last["count"])
    assert {picture["label"] == picture["guess"] for picture in found["pictures"]} == {False, True}
    assert "all epochs are done" in page.text
    assert len(page.having("img")) == len(found["pictures"])
    before = (real_run / "report.html").read_text()
    done = run_command(["engine/report.py", real_run])
    assert (done.returncode, done.stdout.strip()) == (0, str(real_run / "report.html")), done.stderr
    assert (real_run / "report.html").read_text() == before


def test_the_entry_point_refuses_what_is_no_run(run_command, tmp_path):
    done = run_command(["engine/report.py", tmp_path / "nowhere"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is no run directory" in done.stderr


def test_two_ranks_count_every_image_once_and_tell_what_communication_takes(run_on_ranks, tiny_run, tmp_path):
    done = run_on_ranks(tiny_run(schedule__epochs=1))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert sum(found["images"]) == sum(count for _, _, count in found["matrix"]) == 30
    assert 100 * sum(found["right"]) / 30 == pytest.approx(rows(tmp_path / "run", "eval")[-1]["top1"])
    assert any(0 <= row.get("communication_fraction", -1) < 1 for row in rows(tmp_path / "run"))
