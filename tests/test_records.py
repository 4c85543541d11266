"""A record checks itself: whole, unaltered, under its own name."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from c2dlib.records import (
    PACKAGES,
    RecordError,
    RunRecord,
    circumstances,
    command,
    git_environment,
    interpreter,
    read_record,
    write_record,
)

COMMITTER = "-c user.name=t -c user.email=t@example.org -c commit.gpgsign=false"


@pytest.fixture
def record() -> RunRecord:
    return RunRecord(
        hash="0123456789ab",
        status="done",
        reason="",
        student="SSD300-VGG16",
        method="KDcls+loc",
        seed=1,
        scale="smoke",
        experiment={"lr": 0.002, "milestones": [0.5, 0.75]},
        metrics={"mAP": 12.345678901234567, "APl": None},
        eval_split="test",
        parameters=1234,
        seconds_per_step=0.1,
        wall_seconds=2.5,
        teacher={"top1": 50.0},
        curve={"step": [1, 2], "bbox": [0.5, 0.25]},
        data={"name": "badges"},
        checkpoint_sha256="f" * 64,
        command="python -m c2dlib reproduce table2",
        commit="c" * 40,
        dirty=True,
        versions={"torch": "2"},
        device="cpu",
    )


def test_round_trip(tmp_path, record):
    path = write_record(record, tmp_path / "records")
    assert path == tmp_path / "records" / "SSD300-VGG16.KDcls+loc.s1.0123456789ab.json"
    assert read_record(path) == record
    content = path.read_bytes()
    write_record(record, tmp_path / "records")
    assert path.read_bytes() == content


@pytest.mark.parametrize("keep", [0, 1, 0.5, -2])
def test_truncated(tmp_path, record, keep):
    path = write_record(record, tmp_path)
    text = path.read_text()
    path.write_text(text[: int(keep * len(text)) if keep == 0.5 else keep])
    with pytest.raises(RecordError, match=re.escape(str(path))):
        read_record(path)


@pytest.mark.parametrize(
    "field, value",
    [
        ("metrics", {"mAP": 99.0, "APl": None}),
        ("seed", 2),
        ("dirty", False),
        ("status", "failed"),
        ("commit", "d" * 40),
        ("sha256", "0" * 64),
    ],
)
def test_altered(tmp_path, record, field, value):
    path = write_record(record, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(RecordError, match="does not match its hash"):
        read_record(path)


def test_fields_missing_or_too_many(tmp_path, record):
    path = write_record(record, tmp_path)
    body = json.loads(path.read_text())
    for wrong in (
        {k: v for k, v in body.items() if k != "device"},
        body | {"extra": 1},
        {k: v for k, v in body.items() if k != "sha256"},
        [],
        None,
        "text",
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(RecordError, match="not a whole run record"):
            read_record(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError):
        read_record(path)
    with pytest.raises(RecordError):
        read_record(tmp_path / "missing.json")


def test_renamed(tmp_path, record):
    path = write_record(record, tmp_path)
    other = path.rename(tmp_path / "SSD512-VGG16.KDcls+loc.s1.0123456789ab.json")
    with pytest.raises(RecordError, match="holds the record of SSD300-VGG16.KDcls"):
        read_record(other)


def test_circumstances_say_commit_and_versions():
    now = circumstances()
    assert set(now) == {"commit", "dirty", "versions"} <= {f.name for f in dataclasses.fields(RunRecord)}
    assert re.fullmatch("[0-9a-f]{40}|unknown", now["commit"]) and type(now["dirty"]) is bool
    assert set(now["versions"]) == {"python", *PACKAGES} and all(
        re.match(r"\d", v) for v in now["versions"].values()
    )


def test_a_checkout_that_changes_while_a_run_trains_does_not_change_its_commit(tmp_path, monkeypatch):
    circumstances.cache_clear()
    before = circumstances()
    monkeypatch.setattr("c2dlib.records.ROOT", tmp_path)  # another place: no commit there
    assert circumstances() == before
    circumstances.cache_clear()
    assert circumstances()["commit"] == "unknown"
    circumstances.cache_clear()


@pytest.mark.parametrize("below", ["", "unpacked"])
def test_the_commit_is_that_of_the_codes_own_repository(below, tmp_path, monkeypatch):
    """Code in a folder of another repository has none. A variable that names another one changes nothing."""
    heads = []
    for name in ("own", "other"):
        (tmp_path / name / below).mkdir(parents=True)
        for arguments in ("init -q", f"{COMMITTER} commit -q --allow-empty -m {name}", "rev-parse HEAD"):
            words = ["git", "-C", str(tmp_path / name), *arguments.split()]
            done = subprocess.run(words, env=git_environment(), check=True, capture_output=True, text=True)
        heads.append(done.stdout.strip())
    monkeypatch.setattr("c2dlib.records.ROOT", tmp_path / "own" / below)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    circumstances.cache_clear()
    now = circumstances()
    assert (now["commit"], now["dirty"]) == (("unknown", True) if below else (heads[0], False))
    circumstances.cache_clear()


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    circumstances.cache_clear()
    assert circumstances()["commit"] == "unknown" and circumstances()["dirty"] is True
    circumstances.cache_clear()


def test_the_command_of_a_record_has_no_path_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("C2D_COMMAND", raising=False)
    started = ["c2dlib/__main__.py", "run", "S", "M", "--data", str(tmp_path / "my data"), "--out", "a/b"]
    monkeypatch.setattr(sys, "argv", started)
    assert command() == "python -m c2dlib run S M --data 'my data' --out a/b"
    monkeypatch.setattr(sys, "argv", [started[0], "run", "--data", "../elsewhere/photos"])
    assert command() == "python -m c2dlib run --data photos"
    words = [
        "--data=/home/me/photos",
        "--out=a/b",
        "backbone_weights=../w.safetensors",
        "/home/a=b/x",
        "lr=0.1",
    ]
    monkeypatch.setattr(sys, "argv", [started[0], "run", *words])
    assert command() == "python -m c2dlib run --data=photos --out=a/b backbone_weights=w.safetensors x lr=0.1"


def test_the_interpreter_is_named_as_a_shell_reaches_it(monkeypatch, tmp_path):
    """Below the folder by its way from there, elsewhere by its whole path."""
    place = tmp_path / "a b"
    monkeypatch.setattr(sys, "executable", str(place / ".venv/bin/python"))
    monkeypatch.chdir(tmp_path)
    assert interpreter() == "'a b/.venv/bin/python'"
    assert interpreter(place) == ".venv/bin/python"
    assert interpreter(tmp_path / "another") == f"'{place}/.venv/bin/python'"
