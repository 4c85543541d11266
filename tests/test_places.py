"""Folders and classes of any name, folders that cannot be written, a machine without git, HOME or UTF-8."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from c2dlib.cli import main
from c2dlib.records import ROOT

NAME = """it's "$HOME" `a`;b|c & %s{x}[a]*#Füße 日本"""  # a folder of this name
CLASSES = ["5$_$ note", '<b>"x"|y</b>', "Füße 日本", "two\nlines {x} %s"]
SETTINGS = ["steps=1", "backbone_weights=none", "image_size=64", "batch_size=2", "score_threshold=0.0"]
STUDENT = "SSD300-VGG16"


def photographs(root: Path) -> Path:
    """A COCO-format folder of noise whose classes and files have the names above."""
    chance, number = np.random.default_rng(0), 0
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images, rows = [], []
        (root / f"{split}2017").mkdir()
        for i in range(1, 5):
            name = f"{NAME} {i}.png"
            noise = chance.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / f"{split}2017" / name)
            images.append({"id": i, "file_name": name, "width": 64, "height": 48})
            for category in range(1, 5):
                number += 1
                box = [4.0 * category, 5.0, 30.0, 25.0]
                rows.append({"id": number, "image_id": i, "category_id": category, "bbox": box})
        categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
        content = {"images": images, "annotations": rows, "categories": categories}
        text = json.dumps(content, ensure_ascii=False)
        (root / f"annotations/instances_{split}2017.json").write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The folder that a command is started in."""
    folder = tmp_path / f"clone {NAME}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_folders_files_and_classes_may_have_any_name(here, capsys):
    """From the photographs to a notebook's figures, a table, pages, boxes on pictures and an ONNX file."""
    data = str(photographs(here / NAME).relative_to(here))
    options = ["--scale", "smoke", "--data", data, "--device", "cpu"]
    row = ["--students", STUDENT, "--methods", "loc", "--set", *SETTINGS]
    assert main(["reproduce", "your_data", *options, "--jobs", "1", *row]) == 0, capsys.readouterr()
    results = here / "results" / f"{NAME}-smoke"
    cells = nbformat.read(results / "your_data.ipynb", 4).cells
    assert sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", [])) == 3

    row[3] = "baseline"
    assert main(["table", "table1", *options, *row]) == 0
    assert "1 of 1 rows have a finished run" in capsys.readouterr().out
    assert pd.read_csv(results / "table1.csv").status.tolist() == ["done"]
    assert main(["html", *options[:4]]) == 0
    assert "your_data.html" in (results / "html/index.html").read_text(encoding="utf-8")

    (run,) = (here / "runs" / results.name).glob(f"{STUDENT}.loc.*/")
    assert main(["evaluate", str(run), "--data", data, "--split", "val"]) == 0
    picture = str(next((here / NAME / "val2017").iterdir()))
    assert main(["detect", str(run), picture, "--out", f"boxes {NAME}", "--threshold", "0"]) == 0
    assert {Path(picture).name, "detections.json"} == {p.name for p in (here / f"boxes {NAME}").iterdir()}
    assert main(["export", str(run), f"{NAME}.onnx"]) == 0, capsys.readouterr()
    assert (here / f"{NAME}.onnx").exists()


def test_without_git_home_and_utf8(here):
    """In the locale C a run of such data is recorded, its commit as unknown."""
    data, empty = photographs(here / NAME), here / "empty"
    empty.mkdir()
    arguments = ["run", STUDENT, "baseline", "--scale", "smoke", "--data", str(data), "--device", "cpu"]
    answer = subprocess.run(
        [sys.executable, "-m", "c2dlib", *arguments, "--set", *SETTINGS],
        env={"PATH": str(empty), "LC_ALL": "C", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        cwd=here,
        capture_output=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr.decode(errors="replace")
    (path,) = (here / "results").glob("*/records/*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["status"] == "done" and record["commit"] == "unknown" and record["data"]["name"] == NAME


IN_EACH = """
import os, sys
from c2dlib.cli import main
for folder in ("no-runs", "no-results"):
    os.chdir(os.path.join(sys.argv[1], folder))
    print(folder, main(sys.argv[3:]), file=sys.stderr)
print("data", main(["data", "--data", sys.argv[2]]), file=sys.stderr)
"""


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """The data may be read-only; where results or runs are, that is one line.

    Root could write all the same, so its process gives up that right.
    """
    as_others = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if as_others and not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed")
    data = photographs(tmp_path / "photos")
    for folder in ("no-runs", "no-results"):
        for name in ("runs", "results"):
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name).chmod(0o555 if name in folder else 0o777)
    for path in [*data.rglob("*"), data]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    arguments = ["run", STUDENT, "baseline", "--scale", "smoke", "--data", str(data), "--device", "cpu"]
    said = subprocess.run(
        [*as_others, sys.executable, "-c", IN_EACH, str(tmp_path), str(data), *arguments, "--set", *SETTINGS],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    first, rest = said.split("no-runs 2\n")
    second, third = rest.split("no-results 2\n")
    for text, closed in ((first, "runs"), (second, "results")):
        (line,) = (line for line in text.splitlines() if line.startswith("error: "))
        assert f"{closed}/photos-smoke" in line and "ermission denied" in line
    assert third == "data 0\n" and "Traceback" not in said
