"""JupyterLab in a browser, as a reader uses it: notebooks are opened and run, every control is clicked.

Needs playwright (the extra ``browser``) and an installed Chromium; skipped without them. ``C2D_SCREENSHOTS``
names a folder that receives pictures of what was seen.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from c2dlib.records import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
SECONDS = 900  # for one notebook, on a busy machine
# What JupyterLab itself writes to the console without a network, and on a first start.
OF_JUPYTERLAB = ("/lab/api/news", "/lab/api/update", "Failed to fetch news", "favicon", "/api/workspaces")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a copy of the notebooks, which keep their checkpoints in a folder of their own."""
    root = tmp_path_factory.mktemp("lab")
    for name in ("00_method", "01_teacher", "figure3_errors"):
        text = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
        runs = json.dumps(f'runs = "{root / "runs"}"')[1:-1]
        assert 'runs = \\"\\"' in text
        (root / f"{name}.ipynb").write_text(text.replace('runs = \\"\\"', runs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.root_dir": root,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": "",
        "LabApp.news_url": "",
    }
    command = [sys.executable, "-m", "jupyterlab", *(f"--{key}={value}" for key, value in options.items())]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(root / "config"), "PYTHONPATH": str(ROOT)}
    environment["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
    with open(root / "log.txt", "w") as log:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{address}/api/status"), 300, lambda: (root / "log.txt").read_text())
        yield address, root
    finally:
        server.terminate()
        server.wait(60)


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def wait_for(condition, seconds: float, report=str):
    """The first true value of ``condition()``; fails with ``report()`` after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(2)
    pytest.fail(f"not within {seconds} s: {report()}")


@pytest.fixture
def page(lab):
    """A page of a fresh browser; at the end no error was shown on the console."""
    errors = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(SECONDS * 1000 / 3)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(f"{m.text} {m.location}") if m.type == "error" else None)
        yield page
        browser.close()
    assert [e for e in errors if not any(known in e for known in OF_JUPYTERLAB)] == []


def run_notebook(page, lab, name: str) -> list[dict]:
    """Open a notebook, run all its cells and save it; returns its code cells."""
    address, root = lab
    page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def code_cells() -> list[dict]:
        page.keyboard.press("Control+s")
        try:
            cells = json.loads((root / f"{name}.ipynb").read_text())["cells"]
        except ValueError:  # it is just being written
            return []
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        failed = [o for cell in code for o in cell["outputs"] if o["output_type"] == "error"]
        assert not failed, "\n".join(failed[0]["traceback"])
        return code if all(cell["execution_count"] for cell in code) else []

    cells = wait_for(code_cells, SECONDS)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
    return cells


def photograph(page, name: str) -> None:
    if folder := os.environ.get("C2D_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.mark.parametrize("name, pictures", [("00_method", 8), ("01_teacher", 6)])
def test_notebook_shows_the_method_at_work(name, pictures, page, lab):
    cells = run_notebook(page, lab, name)
    data = [output.get("data", {}) for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in shown for shown in data) == pictures
    page.locator(".jp-Notebook").evaluate("element => element.scrollTo(0, 0)")
    assert page.get_by_text("Open to run: notebooks/").first.is_visible()
    photograph(page, f"{name}-top")
    if name == "00_method":
        equation = page.locator("mjx-container").first  # JupyterLab's own MathJax
        equation.scroll_into_view_if_needed()
        photograph(page, f"{name}-equation")
    page.locator(".jp-OutputArea img").last.scroll_into_view_if_needed()
    photograph(page, f"{name}-last")


def test_every_control_of_the_explorer(page, lab):
    run_notebook(page, lab, "figure3_errors")
    explorer = page.locator(".jp-OutputArea .widget-vbox, .jp-OutputArea .jupyter-widgets.widget-vbox").last
    explorer.scroll_into_view_if_needed()
    picture = explorer.locator("img").first

    def changes(action) -> None:
        before = picture.get_attribute("src")
        action()
        wait_for(lambda: picture.get_attribute("src") != before, SECONDS / 3, lambda: "the picture stays")

    photograph(page, "explorer")
    run, category = explorer.locator("select").nth(0), explorer.locator("select").nth(1)
    assert run.locator("option").count() == 2  # the published detections
    changes(lambda: run.select_option(index=1))
    changes(lambda: category.select_option(index=1))
    changes(lambda: category.select_option(index=0))
    kinds = explorer.locator(".widget-toggle-button")
    assert kinds.count() == 6
    for i in (1, 2, 3, 4, 5, 0):
        changes(kinds.nth(i).click)
    for name in ("next", "previous"):
        changes(explorer.locator("button", has_text=name).click)
    handle = explorer.locator(".noUi-handle").first
    changes(lambda: handle.press("ArrowRight"))
    photograph(page, "explorer-used")
