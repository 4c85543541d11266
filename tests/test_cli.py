"""python -m c2dlib: a misspelt option ends with exit code 2 and the valid names; a tiny table is made."""

import csv
import errno
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import papermill
import pytest

from c2dlib.cli import COMMANDS, main
from c2dlib.config.experiment import scale_data, scale_names
from c2dlib.records import ROOT
from c2dlib.reporting import notebooks, work_list
from c2dlib.reporting.work_list import TABLES
from c2dlib.training import schedule

SETTINGS = [
    "steps=2",
    "teacher_steps=2",
    "teacher_images=4",
    "pretrain_steps=1",
    "pretrain_scenes=8",
    "image_size=64",
    "batch_size=2",
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments) -> int:
    try:
        return main(["reproduce", *arguments, "--device", "cpu", "--jobs", "1"])
    except SystemExit as end:  # argparse
        return end.code


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["tabel2"], ["tabel2", "table1", "table2"]),
        (["table2", "--scale", "smok"], ["smok", "Did you mean smoke", "mini"]),
        (["table2", "--scale", "smoke", "--students", "RetinaNet"], ["RetinaNet-R50", "FasterRCNN-R50"]),
        (
            ["table2", "--scale", "smoke", "--students", "SSD300-VGG16"],
            ["SSD300-VGG16", "SSD512-VGG16"],
        ),  # in Table 1 only
        (["table2", "--scale", "smoke", "--methods", "baseline", "KDclss"], ["KDclss", "KDcls", "C2D+FKD"]),
        (["table2", "--scale", "smoke", "--set", "step=3"], ["'step'", "Did you mean", "steps"]),
        (["table2", "--scale", "smoke", "--set", "steps=three"], ["steps='three'", "int"]),
        (["table2", "--scale", "smoke", "--set", "steps"], ["'steps'", "setting=value"]),
        (["table2", "--scale", "smoke", "--set", "optimizer=adam"], ["'adam'", "adamw", "sgd"]),
        (["table2", "--scale", "smoke", "--seeds", "0"], ["SEEDS=0", "at least 1"]),
        (["table2", "--scale", "smoke", "--seeds", "three"], ["--seeds", "three"]),
        (["table2", "--scales", "smoke", "--bogus"], ["--bogus"]),
        (["figure5"], ["figure5", "Did you mean figure", "method", "your_data"]),
        (["figure4", "--scale", "smoke", "--seeds", "3"], ["figure4 has no SEEDS", "student", "method"]),
        (["figure4", "--scale", "smoke", "--students", "SSD30"], ["SSD30", "SSD300-VGG16"]),
        (
            ["figure4", "--scale", "smoke", "--students", "SSD300-VGG16", "SSD512-VGG16"],
            ["figure4 has no STUDENTS"],
        ),
        (["figure3", "--scale", "smoke", "--methods", "KDclss"], ["KDclss", "KDcls"]),
        (["method", "--scale", "smoke", "--set", "step=3"], ["'step'", "steps"]),
        (["teacher", "--scale", "smok"], ["smok", "smoke"]),
        (["scale", "--set", "steps=3"], ["scale has no SET", "gpu, utilisation"]),
    ],
)
def test_what_is_misspelt_is_named_and_nothing_is_written(here, capsys, arguments, words):
    assert call(*arguments) == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in words), printed
    assert "Traceback" not in printed and not list(here.iterdir())


def test_every_command_of_make_reproduce_is_taken(here, monkeypatch, capsys):
    """The Makefile's lists are the library's, and no notebook gets an option that it has no parameter for."""
    printed = subprocess.run(
        ["make", "-n", "reproduce", "SCALE=smoke", "SEEDS=3", "JOBS=2"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    commands = [
        shlex.split(line.split("-m c2dlib ")[1])
        for line in printed.splitlines()
        if "-m c2dlib reproduce" in line
    ]
    expected = {*TABLES, *notebooks.PIECES} - {"choices"}  # choices: how the tables came about
    assert {words[1] for words in commands} == expected, "OVER_SEEDS and ONE_SEED of the Makefile"
    given = {}
    monkeypatch.setattr(
        papermill,
        "execute_notebook",
        lambda source, target, told, **_: given.update({Path(source).stem: told}),
    )
    monkeypatch.setattr(notebooks, "_keep", lambda *_: None)
    monkeypatch.setattr("c2dlib.training.schedule.run_all", lambda *_: None)
    for words in commands:  # 1: without training no row of a table is finished
        assert main(words) == int(words[1] in TABLES), capsys.readouterr().err
    assert set(given) == {*notebooks.PIECES.values(), *expected.intersection(TABLES)}
    for name, told in given.items():  # opened, they show what is published
        assert ("published" in told) == ("published" in notebooks.parameters(name)), name
        assert not told.get("published"), name
    assert given["figure3_errors"]["seeds"] == given["your_data"]["seeds"] == 3


def test_a_notebook_without_a_student_shows_that_of_its_scale(here, monkeypatch):
    calls = executed(monkeypatch)
    for words in ([], ["--students", "SSD512-VGG16"]):
        assert main(["reproduce", "method", "--scale", "smoke", *words]) == 0
    given = {"ablated": "RetinaNet-R50"}
    monkeypatch.setattr(work_list, "scale_tables", lambda _: given)
    assert main(["reproduce", "method", "--scale", "smoke"]) == 0
    assert [told["student"] for _, told in calls] == ["SSD300-VGG16", "SSD512-VGG16", "RetinaNet-R50"]


def test_your_data_takes_a_preset_and_its_student(here, monkeypatch, capsys):
    calls, scenes = executed(monkeypatch), scale_data("smoke")
    monkeypatch.setattr("c2dlib.workspace.scale_data", lambda _: scenes)
    assert main(["reproduce", "your_data", "--scale", "laptop"]) == 0
    ((_, told),) = calls
    assert (told["scale"], told["student"]) == ("laptop", "FasterRCNN-MV2")
    capsys.readouterr()
    assert main(["reproduce", "method", "--scale", "laptop"]) == 2  # no other notebook does
    assert "unknown SCALE 'laptop'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "override", ["student=SSD512-VGG16", "method=ours", "seed=3", "data=coco", "data_hash=abc"]
)
def test_what_has_an_option_of_its_own_is_no_override(here, capsys, override):
    assert call("table2", "--scale", "smoke", "--set", override) == 2
    assert override.split("=")[0] in capsys.readouterr().err and not list(here.iterdir())


@pytest.mark.parametrize("method", ["loc", "KDcls"])
def test_a_method_the_table_has_no_row_for_is_not_dropped_in_silence(here, capsys, method, monkeypatch):
    monkeypatch.setattr(schedule, "run_all", lambda *_, **__: pytest.fail("nothing should be trained"))
    assert call("table2", "--scale", "smoke", "--methods", "baseline", method) == 2
    assert method in capsys.readouterr().err


def broken(folder: Path, **files) -> Path:
    (folder / "annotations").mkdir(parents=True)
    for name, text in files.items():
        (folder / "annotations" / f"instances_{name}2017.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda f: f, ["no such folder", "Expected layout"]),
        (lambda f: f.mkdir(), ["the folder is empty", "Expected layout"]),
        (lambda f: f.write_text("x"), ["is a file"]),
        (lambda f: broken(f), ["instances_train2017.json", "instances_val2017.json", "missing"]),
        (
            lambda f: broken(f, train="{", val=json.dumps({"images": []})),
            ["not valid JSON", "instances_val2017.json"],
        ),
    ],
)
def test_data_that_cannot_be_used_is_reported_and_nothing_is_written(
    here, tmp_path_factory, capsys, make, words
):
    data = tmp_path_factory.mktemp("data") / "mine"
    make(data)
    assert call("table2", "--scale", "smoke", "--data", str(data)) == 2
    printed = capsys.readouterr().err
    assert all(word in printed for word in [str(data), *words]), printed
    assert "Traceback" not in printed and not list(here.iterdir())


def executed(monkeypatch) -> list:
    calls = []
    monkeypatch.setattr(
        notebooks,
        "execute",
        lambda name, workspace, parameters: (
            calls.append((name, parameters)),
            workspace.results / f"{name}.ipynb",
        )[1],
    )
    return calls


def test_a_tiny_table_from_end_to_end(here, capsys, monkeypatch):
    notebook = executed(monkeypatch)
    arguments = [
        "table2",
        "--scale",
        "smoke",
        "--students",
        "SSD512-VGG16",
        "--methods",
        "baseline",
        "ours",
        "--set",
        *SETTINGS,
    ]
    assert call(*arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 rows: 0 on this machine, 2 to train\n")
    assert "29.4" in printed and "32.1" in printed and "badges-smoke" in printed
    table = printed.rpartition("Table 2: ")[2]
    assert max(map(len, table.splitlines())) <= 100 and "mean nothing" in " ".join(table.split())
    results = here / "results" / "badges-smoke"
    with open(results / "table2.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["student"], r["method"], r["paper_mAP"], r["status"], r["seeds"]) for r in rows] == [
        ("SSD512-VGG16", "baseline", "29.4000", "done", "1"),
        ("SSD512-VGG16", "ours", "32.1000", "done", "1"),
    ]
    for row in rows:
        record = json.loads((results / "records" / f"{row['records']}.json").read_text())
        assert float(row["mAP"]) == pytest.approx(record["metrics"]["mAP"], abs=1e-4)
        assert record["experiment"]["steps"] == 2 and record["command"]
    assert "| SSD512-VGG16 | C2D | 32.1 |" in (results / "table2.md").read_text()
    ((name, parameters),) = notebook
    assert (
        name == "table2" and parameters["scale"] == "smoke" and parameters["methods"] == ["baseline", "ours"]
    )
    assert parameters["overrides"]["steps"] == 2 and parameters["data"] == ""

    before = (results / "table2.csv").read_bytes()
    monkeypatch.setattr(schedule, "_execute", lambda *_: pytest.fail("everything is finished"))
    assert call(*arguments) == 0
    assert (results / "table2.csv").read_bytes() == before


def test_a_row_that_has_no_record_is_no_success(here, monkeypatch):
    executed(monkeypatch)
    monkeypatch.setattr(schedule, "run_all", lambda *_, **__: [None])  # the run died of an unexpected error
    arguments = ["table2", "--scale", "smoke", "--students", "FasterRCNN-R50", "--set", *SETTINGS]
    assert call(*arguments, "--methods", "baseline") == 1


def test_ctrl_c_is_no_traceback(here, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(schedule, "run_all", interrupted)
    assert call("table2", "--scale", "smoke") == 130
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    assert line.startswith("Interrupted. To go on: ")
    assert line.endswith("python -m c2dlib reproduce table2 --scale smoke --device cpu --jobs 1")


def test_ctrl_c_while_the_program_loads_is_one_line(monkeypatch, capsys):
    class Interrupted:
        def find_spec(self, name, *_):
            if name == "c2dlib.cli":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "c2dlib.cli")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("c2dlib", run_name="__main__")
    assert end.value.code == 130 and capsys.readouterr().err == "\nInterrupted before the command began.\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["show", "table2"], ["show", "--help"]])
def test_output_that_nobody_reads_is_no_error(arguments, unbuffered):
    """As after `| head -1`: no message, and the exit code of a program that SIGPIPE ends."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "c2dlib", *arguments]
    answer = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert (answer.returncode, answer.stderr) == (141, "")


def test_another_pipe_that_breaks_is_an_error(here, monkeypatch, capsys):
    def broken(*_, **__):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(schedule, "run_all", broken)
    assert call("table2", "--scale", "smoke") == 2
    assert "error: [Errno 32] Broken pipe" in capsys.readouterr().err


def test_claims_and_pages_of_a_place_without_runs(here, capsys):
    assert main(["claims", "--scale", "smoke"]) == 0
    assert "are not tested on these data" in capsys.readouterr().out
    assert (here / "results/badges-smoke/claims.md").exists()
    assert main(["html", "--scale", "smoke"]) == 2
    assert "no executed notebook" in capsys.readouterr().err
    assert main(["claims", "--scale", "smok"]) == 2 and "smoke" in capsys.readouterr().err


LIGHT = (
    "import sys; from c2dlib.cli import main\n"
    "try: code = main(sys.argv[1:])\n"
    "except SystemExit as end: code = end.code or 0\n"
    "print(sorted({'torch', 'pandas', 'torchvision'} & set(sys.modules))); sys.exit(code)"
)


@pytest.mark.parametrize(
    "arguments, code",
    [
        (["--help"], 0),
        (["reproduce", "--help"], 0),
        (["show", "table2"], 0),
        (["show", "table2", "--scale", "photos"], 2),
        (["reproduce", "table2", "--scale", "smok"], 2),
        (["plan", "table2", "--scale", "smok"], 2),
        (["run", "SSD300-VGG16", "KDcls", "--set", "steps"], 2),
        (["run", "SSD300-VGG16", "KDcls", "--set", "data_hash=abc"], 2),
        (["train", "--set", "seed=3"], 2),
        (["table2"], 2),
    ],
)
def test_help_and_misspelt_options_do_not_wait_for_torch(arguments, code):
    """torch takes seconds to import; without it these commands answer in about one."""
    answer = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert answer.returncode == code and answer.stdout.splitlines()[-1] == "[]", answer


FIRST_LINE = """
import sys
class Refused:
    def find_spec(self, name, *_):
        if name in ("torch", "pandas"):
            raise ModuleNotFoundError(f"{name} is imported")
sys.meta_path.insert(0, Refused())
from c2dlib.cli import main; main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "line, arguments",
    [
        ("30 rows: 0 on this machine, 30 to train", ["reproduce", "table2", "--scale", "smoke"]),
        ("24 rows: 0 on this machine, 24 to train", ["reproduce", "figure3", "--scale", "smoke"]),
        ("figure4, scale smoke", ["reproduce", "figure4", "--scale", "smoke"]),
        ("table2, scale mini", ["table", "table2"]),
        ("plan of table2, scale coco", ["plan", "table2", "--scale", "coco"]),
        ("SSD300-VGG16 ours, seed 0, scale mini", ["run", "SSD300-VGG16", "ours"]),
        ("data my photos", ["data", "--data", "my photos"]),
        ("claims, scale mini", ["claims"]),
        ("pages, scale mini", ["html"]),
        ("publishing the results of scale mini", ["publish"]),
        ("tables of README and docs", ["readme"]),
        ("bench: counts", ["bench", "--what", "counts"]),
        ("runs/x", ["evaluate", "runs/x"]),
        ("runs/x", ["detect", "runs/x", "a.jpg"]),
        ("runs/x", ["export", "runs/x", "a.onnx"]),
        ("SSD300-VGG16 C2D, preset quick", ["train"]),
        ("FasterRCNN-MV2 KDcls, preset laptop", ["train", "--preset", "laptop", "--method", "KDcls"]),
    ],
)
def test_the_first_line_does_not_wait_for_torch(here, line, arguments):
    """Here torch and pandas cannot be imported: the line stands before, and all the rest fails."""
    answer = subprocess.run(
        [sys.executable, "-c", FIRST_LINE, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert answer.stdout.startswith(line), answer.stderr
    assert answer.stdout.count("\n") == 1 and ("torch" in answer.stderr or "pandas" in answer.stderr)


def test_names_lists_every_table_scale_student_and_method(capsys):
    assert main(["names"]) == 0
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert printed["tables"].split() == list(TABLES)
    assert printed["figures and notebooks"].split() == list(notebooks.PIECES)
    assert {"smoke", "mini", "coco"} <= set(printed["scales"].split())
    assert "SSD300-VGG16" in printed["students"].split() and "C2D+FKD" in printed["methods"].split()


def test_options_of_every_command_are_taken(capsys):
    """Help of each command, and a list option in any place."""
    for command in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0 and f"python -m c2dlib {command}" in capsys.readouterr().out
    assert (
        main(
            [
                "table",
                "--students",
                "SSD30",
                "SSD512-VGG16",
                "--scale",
                "smoke",
                "--seeds",
                "2",
                "--",
                "table2",
            ]
        )
        == 2
    )
    assert "SSD30" in capsys.readouterr().err
    assert main(["detect", "checkpoint"]) == 2 and "which pictures?" in capsys.readouterr().err


def test_one_line_tells_what_to_mend(capsys):
    assert main(["claims", "--scale", "smok"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unknown SCALE 'smok'. Did you mean smoke?")


def test_make_help_names_every_scale():
    text = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    line = next(line for line in text.splitlines() if line.startswith("  SCALE "))
    assert all(scale in line for scale in scale_names())
