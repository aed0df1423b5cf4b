"""The live page of runs: what it lists, compares and follows, whom it answers, and how it looks in a real browser."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from werkzeug.test import Client

from browser import chromium, serving, show_width
from constructed_run import construct_run
from engine.config.options import ConfigError
from engine.monitoring.report.data import read_run, state_of
from engine.monitoring.watching.comparison import differing_options
from engine.monitoring.watching.found_runs import RunList
from engine.monitoring.watching.server import Application, is_own, serve
from engine.runs.metrics_file import MetricsFile
from engine.watch import main
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
ODD = "r\u00fcn <b>&\"'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of several states: ended, resumed and under way, in a folder of a folder, with an odd name."""
    root = tmp_path_factory.mktemp("watched")
    construct_run(root / "first", resumed_in=7, ended="target")
    other = construct_run(root / "group" / ODD, ended=None)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["optimizer"]["lr"] = 0.123
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    (root / "no run").mkdir()
    return root


def write(run: Path, step: int, **values: Any) -> None:
    row = {"kind": "train", "epoch": step / 10, "samples": step, "time": float(step), "loss": 1.0, "top1": 1.0}
    MetricsFile(run / "metrics.jsonl").write({**row, "step": step, **values})


# ---- what is there --------------------------------------------------------------------------------------------------


def test_runs_are_found_below_a_folder_and_summed_up(folder):
    found = {run.name: run for run in RunList([folder]).summaries()}
    assert found.keys() == {"first", f"group/{ODD}"}
    rows = read_run(folder / "first").rows
    first = found["first"]
    assert (first.state, first.step, first.epochs) == ("finished", rows[-1]["step"], 30)
    assert first.best == max(row["top1"] for row in rows if row["kind"] == "eval")
    assert first.loss == [row for row in rows if row["kind"] == "train"][-1]["loss"]
    assert found[f"group/{ODD}"].state == "training"


def test_a_summary_follows_rows_that_are_added_cut_off_and_taken_back(tmp_path):
    run = construct_run(tmp_path / "run", epochs=2, ended=None)
    runs = RunList([tmp_path])
    before = runs.summaries()[0].step
    write(run, before + 1, loss=0.25)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 999')  # half a row
    [summary] = runs.summaries()
    assert (summary.step, summary.loss) == (before + 1, 0.25)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(', "loss": 0.5}\n')
    assert runs.summaries()[0].step == 999
    MetricsFile(run / "metrics.jsonl").rewind(before)
    [summary] = runs.summaries()
    assert (summary.step, summary.state) == (before, "training")
    os.utime(run / "metrics.jsonl", (0, 0))
    assert runs.summaries()[0].state == "resting"
    write(run, before + 1, kind="event", event="preempted")
    write(run, before + 1, kind="event", event="report failed")  # which follows it
    assert runs.summaries()[0].state == "interrupted"
    assert state_of(read_run(run))[0] == "interrupted"
    write(run, before + 1, kind="end", reason="completed")
    write(run, before + 1, kind="event", event="report failed")
    assert [each.summaries()[0].state for each in (runs, RunList([tmp_path]))] == ["finished", "finished"]
    assert state_of(read_run(run))[0] == "finished"
    assert MetricsFile(run / "metrics.jsonl").end()["reason"] == "completed"


def test_runs_of_several_labels_show_what_their_best_is_measured_by(tmp_path):
    run = construct_run(tmp_path / "run", epochs=2, ended=None)
    write(run, 10**6, kind="eval", top1=99.0, map=42.5)
    [summary] = RunList([tmp_path]).summaries()
    assert summary.measure == "mAP"
    assert "mAP" in Client(Application([tmp_path])).get("/").text


def test_equal_names_of_two_folders_are_told_apart(tmp_path):
    for side in ("left", "right"):
        construct_run(tmp_path / side / "run", epochs=1)
    names = RunList([tmp_path / "left", tmp_path / "right"]).by_name()
    assert names == {"run": tmp_path / "left" / "run", "run (2)": tmp_path / "right" / "run"}


def test_only_options_that_differ_are_listed(folder):
    runs = {"a": read_run(folder / "first"), "b": read_run(folder / "group" / ODD)}
    [(name, options)] = differing_options(runs)
    assert (name, options[1].value) == ("optimizer.lr", "0.123")


# ---- whom it answers ------------------------------------------------------------------------------------------------


def test_pages_show_their_runs_and_escape_names(folder):
    client = Client(Application([folder]))
    page = client.get("/").text
    assert "<b>&" not in page
    assert "r\u00fcn &lt;b&gt;&amp;" in page
    assert "Where the time went" in client.get("/run/first/").text
    answer = client.get(f"/run/group/{ODD}/")
    assert answer.status_code == 200
    compared = client.get("/compare", query_string=[("run", "first"), ("run", f"group/{ODD}")])
    assert "optimizer.lr" in compared.text
    assert 'class="key c2"' in compared.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    ["/run/", "/run/../", "/run/../../etc/passwd", "/run/first/../../x/", "/run/%2e%2e/", "/run/no run/", "/compare",
     "/compare?run=x", "/run/first/config.yaml", "/static/x", "/run/\x00/"],
)  # fmt: skip
def test_no_address_leads_to_another_file(folder, path):
    assert Client(Application([folder])).get(path, follow_redirects=True).status_code == 404


def test_it_is_read_only_and_answers_by_its_own_names_alone(folder):
    client = Client(Application([folder], hosts=("127.0.0.1", "localhost")))
    assert client.post("/", base_url="http://localhost:1/").status_code == 403
    assert client.get("/", base_url="http://localhost:1/").status_code == 200
    assert client.get("/", base_url="http://evil.example:1/").status_code == 421


def test_a_token_is_asked_for_and_does_not_stay_in_the_address(folder):
    client = Client(Application([folder], token="secret"))
    assert client.get("/").status_code == 403
    assert client.get("/?token=secre").status_code == 403
    assert client.get("/?token=\u00e9").status_code == 403
    answer = client.get("/?token=secret")
    assert (answer.status_code, answer.location) == (302, "/")
    assert client.get("/").status_code == 200
    assert not is_own("0.0.0.0") and not is_own("example.org") and is_own("::1") and is_own("localhost")  # noqa: PT018


def test_bad_options_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match="is no directory"):
        main([str(tmp_path / "absent")])
    server, address = serve([tmp_path], "127.0.0.1", 0, "")
    with contextlib.closing(server.socket), pytest.raises(ConfigError, match="choose another --port"):
        main([str(tmp_path), "--port", address.rstrip("/").rpartition(":")[2]])


def test_no_row_is_read_twice(tmp_path, monkeypatch):
    """What the page's second rests on: after the first look only new rows are read."""
    for number in range(20):
        construct_run(tmp_path / f"run{number}", epochs=2)
    runs = RunList([tmp_path])
    runs.summaries()
    read: list[Path] = []
    plain = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *rest, **more: (read.append(self), plain(self, *rest, **more))[1])
    write(tmp_path / "run7", 5000)
    read.clear()
    runs.summaries()
    assert [path.parent.name for path in read if path.name == "metrics.jsonl"] == ["run7"]


# ---- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Two runs on a server of their own: their folder, the address."""
    for name in ("one", "two"):
        construct_run(tmp_path / name, epochs=2, ended=None)
    with serving(tmp_path) as address:
        yield tmp_path, address


@pytest.mark.downloads
def test_a_browser_follows_a_run_under_way(browser, served):
    folder, address = served
    browser.get(f"{address}run/one/")

    def text() -> str:
        return browser.execute_script(
            "return document.querySelector('main').innerText"
        )  # at once: the page replaces it

    assert "CPU" in wait_until(lambda: "CPU" in text() and text(), text)
    browser.find_element("css selector", "label[for=by-time]").click()
    write(folder / "one", 5000, epoch=2.0, time=99.0, images_per_second=77.0, seconds=1.0)
    wait_until(lambda: "5,000 steps" in text(), text)
    assert browser.find_element("id", "by-time").is_selected()  # what the reader chose stays
    assert [
        entry
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
    ] == []


@pytest.mark.downloads
def test_a_browser_compares_those_ticked_on_a_phone_and_in_the_dark(browser, served):
    _, address = served
    show_width(browser, 390, 800)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    browser.get(address)
    for box in browser.find_elements("css selector", "input[type=checkbox]"):
        box.click()
    browser.find_element("tag name", "button").click()
    wait_until(lambda: "2 runs compared" in browser.page_source, lambda: browser.current_url)
    assert len(browser.find_elements("css selector", ".charts.epoch svg polyline")) >= 8
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(19, 19, 21)"
