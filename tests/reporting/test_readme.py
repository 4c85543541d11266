"""The README shows the committed tables, and its code runs."""

import math
import re
import shlex
import subprocess
import sys
import textwrap

import pandas as pd
import pytest
import timm
import torch
from torchvision.models import WeightsEnum, detection

from c2dlib.cli import main
from c2dlib.records import PUBLISHED, ROOT
from c2dlib.reporting import console
from c2dlib.reporting.preview import preview
from c2dlib.reporting.published import agreement
from c2dlib.reporting.readme import pages, update_tables
from c2dlib.reporting.request import Request
from tests.data.test_layouts import coco, picture


def test_the_pages_show_the_committed_tables(tmp_path):
    shown = 0
    for page in pages():
        now, copy = page.read_text(), tmp_path / page.name
        copy.write_text(re.sub(r"(make readme` -->\n).*?(<!-- end)", r"\1stale\n\2", now, flags=re.DOTALL))
        shown += copy.read_text().count("stale")
        update_tables(copy)
        assert copy.read_text() == now, page.name
    assert shown >= 2
    page = tmp_path / "page.md"
    page.write_text("<!-- results/none.csv: written by `make readme` -->\n<!-- end -->")
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        update_tables(page)
    assert page.read_text().startswith("<!-- results/none.csv")


def test_every_link_of_a_page_leads_somewhere():
    """Files of this repository by their path, headings by the name that GitHub gives them."""
    for page in [*pages(), ROOT / "METHOD.md", ROOT / "DEVIATIONS.md"]:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if link.startswith(("https://", "http://")):
                continue
            file, _, heading = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{page.name}: {link}"
            if heading:
                titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
                names = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
                assert heading in names, f"{page.name}: {link}"


def test_the_shortened_output_is_what_the_program_prints(monkeypatch):
    """For two rows with 20.0 and 20.2 mAP on this machine; lines and ends of lines may be left out."""
    _, _, rest = (ROOT / "README.md").read_text().partition("ends with a table")
    shown = rest.split("```")[1].strip("\n").splitlines()
    methods = ("baseline", "KDcls-labels")
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    request = Request("table2", "mini", "", 1, 0, "auto", ("SSD512-VGG16",), methods, {})
    lines = []
    for line in console.read_lines(PUBLISHED / "badges-mini" / "table2.csv"):
        if line["student"] == "SSD512-VGG16" and line["method"] in methods:
            published = {f"published_{name}": line[name] for name in console.PUBLISHED_NUMBERS}
            gain = math.nan if line["method"] == "baseline" else 0.2
            own = {"mAP": [20.0, 20.2][len(lines)], "mAP_sd": math.nan, "seeds": 1, "gain": gain}
            lines.append(line | published | own | {"gain_low": math.nan, "gain_high": math.nan})
    sentence = agreement(pd.DataFrame(lines))
    printed = [preview(request, results=ROOT / "nowhere"), *console.text_table(lines).splitlines()]
    printed += textwrap.wrap(sentence, console.WIDTH)
    kept = [line.removesuffix("…").rstrip() for line in shown]
    places = [next(i for i, p in enumerate(printed) if p.startswith(line)) for line in kept if line]
    assert places == list(range(len(printed)))


def test_the_readmes_own_loop_runs_as_printed(tmp_path, monkeypatch):
    """With random weights in the place of what it downloads, and a slim classifier."""
    section = (ROOT / "README.md").read_text().split("## In your own training loop\n")[1].split("\n## ")[0]
    assert section.count("\n") <= 24
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    builder, create = detection.fasterrcnn_mobilenet_v3_large_320_fpn, timm.create_model
    torch.manual_seed(0)
    published = builder(weights=None, weights_backbone=None).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: published)
    slim = {"channels": (8, 16, 32, 64), "pretrained": False}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **given | slim))
    monkeypatch.chdir(tmp_path)
    target = {"boxes": torch.tensor([[8.0, 8, 60, 70], [30, 20, 90, 90]]), "labels": torch.tensor([1, 90])}
    dataset, names = [(torch.rand(3, 96, 96), target)] * 2, {}
    exec(  # the README's own text
        code,
        {
            "device": "cpu",
            "dataset": dataset,
            "loader": [([image], [target]) for image, target in dataset],
        },
        names,
    )
    assert list(names["losses"])[-3:] == ["KDcls", "loc", "KDloc"]
    saved = torch.load(tmp_path / "student.pth")
    assert {key for key in published if not key.endswith("num_batches_tracked")} == set(saved)
    assert any(not torch.equal(value, published[key]) for key, value in saved.items())


COMMANDS = [
    (page.name, line)
    for page in pages()
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("page, line", COMMANDS, ids=[f"{page}: {line[:40]}" for page, line in COMMANDS])
def test_every_printed_command_exists(page, line):
    """The targets and variables of make, and each command of c2dlib with its options; nothing is run."""
    words = shlex.split(line.partition(" && ")[0], comments=True)
    if words[0] == "make":
        answer = subprocess.run([*words, "-n"], cwd=ROOT, check=False, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        return
    command = words[words.index("c2dlib") + 1] if "c2dlib" in words else ""
    assert command, f"{page}: no command of make or c2dlib: {line}"
    answer = subprocess.run(
        [sys.executable, "-m", "c2dlib", command, "--help"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    given = [word for word in words[words.index("c2dlib") :] if word.startswith("--")]
    assert answer.returncode == 0 and all(option in answer.stdout for option in given), answer


def commands_of(section: str) -> list[list[str]]:
    """The words of each command that a section of the README prints, after ``-m c2dlib`` or ``make``."""
    text = (ROOT / "README.md").read_text().split(f"# {section}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def test_the_readmes_first_command_shows_the_published_table():
    """What make would run is run by this Python: .venv may be another."""
    words = commands_of("Distilling Image Classifiers in Object Detectors, reproduced")[0]
    assert words == ["make", "show-table2"]
    command = [*words, "-n", "--no-print-directory"]  # this test may itself be run by make
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    python, *options = shlex.split(printed.splitlines()[-1])
    assert python == ".venv/bin/python"
    shown = subprocess.run(
        [sys.executable, *options], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert "Table 2" in shown and "29.4" in shown  # the paper's baseline of SSD512-VGG16


FEW = (
    "steps=2 keep_best_every=1 pretrain_steps=1 pretrain_batch=2 teacher_steps=1 teacher_images=2 "
    "batch_size=2 image_size=64 width=0.125 teacher_width=0.125"
)


def test_the_readmes_commands_for_ones_own_images_run_as_printed(tmp_path, monkeypatch, capsys):
    """In the README's order, on nine pictures and with two steps; only the paths are others."""
    monkeypatch.chdir(tmp_path)
    coco(tmp_path / "photos")
    for i in range(2):
        picture(tmp_path / f"new/{i}.jpg", i)
    done = []
    for python, _, _, command, *words in commands_of("Your own images"):
        runs = sorted(map(str, tmp_path.glob("runs/photos-quick/*.KDcls+loc+KDloc.*/")))
        words = [word.replace("/path/to/photos", "photos") for word in words]
        words = [runs[0] if word == "runs/photos-quick/RUN" else word for word in words]
        more = ["--device", "cpu", "--jobs", "1", "--set", *FEW.split()] if command == "train" else []
        assert python == ".venv/bin/python" and main([command, *words, *more]) == 0, capsys.readouterr().err
        done.append((command, capsys.readouterr().out))
    assert [command for command, _ in done] == ["train", "runs", "evaluate", "detect", "export"]
    train, listed, evaluated, detected, exported = (printed for _, printed in done)
    assert "train: 6 images" in train and "C2D" in train and "gain" in train
    assert listed.count("runs/photos-quick/SSD300-VGG16.") == 2
    assert "photos val, 3 images" in evaluated and "cat" in evaluated and "dog" in evaluated
    assert "on val" in detected and len(list(tmp_path.glob("detections/*.png"))) == 2
    assert "the same boxes" in exported and (tmp_path / "student.onnx").exists()
