"""Progress of a training that a notebook starts: on stdout there, and in the terminal of the command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from c2dlib import workspace as workspaces
from c2dlib.records import ROOT
from c2dlib.reporting import notebooks
from c2dlib.workspace import ProgressBar, Workspace

TRAINING = """
from c2dlib.workspace import ProgressBar
bar = ProgressBar()
for step in (1, 2, 3):
    bar("teacher", step, 3)
print("read me")
"""
WAITING = "import pathlib, time; pathlib.Path({path!r}).touch(); time.sleep(300)"
COMMAND = """
import sys
from pathlib import Path
from c2dlib import cli
from c2dlib.reporting import notebooks
from c2dlib.workspace import Workspace
def wait() -> int:
    here = Path.cwd()
    notebooks.execute("small", Workspace("smoke", here, here / "results", here / "runs", "cpu"), {})
    return 0
notebooks.FOLDER = Path.cwd()
cli.COMMANDS["wait"] = wait
sys.exit(cli.main())
"""


def write_notebook(folder: Path, code: str) -> None:
    cells = [nbformat.v4.new_code_cell("scale = 'smoke'", metadata={"tags": ["parameters"]})]
    meta = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell(code)], metadata=meta)
    nbformat.write(notebook, folder / "small.ipynb")


def test_an_executed_notebook_shows_its_progress_in_the_terminal(tmp_path, monkeypatch, capfd):
    """And nothing else: no output of cells, no warning of the kernel. The copy has nothing on stderr."""
    write_notebook(tmp_path, TRAINING)
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = Workspace("smoke", tmp_path, tmp_path / "results", tmp_path / "runs", "cpu")
    path = notebooks.execute("small", place, {})
    printed = capfd.readouterr()
    assert "teacher: 100%" in printed.err and printed.out == ""
    shown = [line.strip() for line in printed.err.replace("\r", "\n").split("\n") if line.strip()]
    assert all(line.startswith("teacher:") for line in shown), printed.err
    (stream,) = nbformat.read(path, 4).cells[-1].outputs
    assert stream.name == "stdout" and "teacher: 100%" in stream.text and stream.text.endswith("read me\n")
    assert stream.text.count("teacher:") == 1  # the last state of the bar


def test_bars_are_on_stdout_in_a_notebook_and_on_stderr_elsewhere(monkeypatch, capsys):
    ProgressBar()("teacher", 1, 1)
    workspaces.notebook_progress("teacher", 1, 1)
    printed = capsys.readouterr()
    assert printed.err.count("teacher: 100%") == 1 and printed.out == ""
    monkeypatch.setattr(workspaces, "in_notebook", lambda: True)
    for _ in range(2):  # the same work again has a bar again
        workspaces.notebook_progress("teacher", 1, 1)
    printed = capsys.readouterr()
    assert printed.out.count("teacher: 100%") == 2 and printed.err == ""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs process groups as Linux has them")
def test_ctrl_c_while_a_notebook_is_executed_is_one_line(tmp_path):
    began = tmp_path / "began"
    write_notebook(tmp_path, WAITING.format(path=str(began)))
    (tmp_path / "command.py").write_text(COMMAND)
    process = subprocess.Popen(
        [sys.executable, "command.py", "wait"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not began.exists() and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert [text for text in err.splitlines() if text] == [line := err.strip()], err
    assert line.startswith("Interrupted. To go on: ") and line.endswith("-m c2dlib wait") and not out
    assert not list((tmp_path / "results").glob("*.ipynb"))
