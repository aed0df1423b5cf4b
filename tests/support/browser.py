"""A real browser without a window: for the tests of the live page, and for the picture of it in the docs.

python tests/support/browser.py RUNS        two runs of the folder RUNS over each other, as docs/watch.png
"""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver

ROOT = Path(__file__).resolve().parents[2]

_SETTINGS = (
    "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-quic",
    "disable-component-update", "disable-sync", "hide-scrollbars",
)  # fmt: skip


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Chromium, from the distribution where it is not there yet."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        packages = [ROOT / "launch" / "installation" / "system.sh", "install_packages", "chromium", "chromium-driver"]
        subprocess.run(["bash", *packages], check=True)
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for setting in (*_SETTINGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{setting}")
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The live page of the runs in `folder`, on a server of its own: the address."""
    from engine.monitoring.watching.server import serve

    server, address = serve([folder], "127.0.0.1", 0, "")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def show_width(browser: Any, width: int, height: int) -> None:
    """Has pages laid out for a screen of that size, a phone's too."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _picture(folder: Path, path: Path) -> None:
    with serving(folder) as address, chromium() as browser:
        show_width(browser, 1100, 1060)
        browser.get(address)
        for box in browser.find_elements("css selector", "input[type=checkbox]")[:2]:
            box.click()
        browser.find_element("tag name", "button").click()
        browser.save_screenshot(str(path))
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of the size


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    _picture(Path(sys.argv[1]), ROOT / "docs" / "watch.png")
