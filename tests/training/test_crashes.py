"""Killed at any moment and started again, a piece of work ends in the same bits and leaves nothing behind.

``make test ARGS=--long`` starts anew before each of several hundred kills; without it, one piece of work is
killed at moments of every kind in turn.
"""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from c2dlib.config.identity import digest
from c2dlib.data.badges import make_badges

ROOT = Path(__file__).resolve().parents[2]
SCENES = {"train": 8, "val": 3, "test": 0}


class Forks:
    """The process of ``crashing.py``."""

    def __init__(self, folder: Path):
        self.root = folder / "work"
        self.data = str(make_badges(folder / "data" / digest(SCENES), **SCENES))
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("crashing.py"))],
            cwd=folder,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def start(self, **options) -> dict:
        self.process.stdin.write(json.dumps({"root": str(self.root), "data": self.data} | options) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("crashes"))
    yield forks
    forks.process.stdin.close()
    forks.process.wait(timeout=200)


@pytest.fixture(scope="module")
def whole(forks):
    """An uninterrupted piece of work: its result, the moments that it passes, its seconds."""
    answer = forks.start(fresh=True)
    assert "result" in answer, answer
    return answer


def one_of_each_kind(moments: list[str]) -> list[str]:
    """Of each moment of a file's name that of one folder, by a fixed draw, in their order."""
    kinds: dict[str, list[str]] = {}
    for moment in moments:
        kinds.setdefault(Path(moment).name, []).append(moment)
    chance = random.Random(0)
    chosen = {chance.choice(of_kind) for of_kind in kinds.values()}
    return [moment for moment in moments if moment in chosen]


def test_killed_at_every_file_boundary(forks, whole, pytestconfig):
    moments, killed, long = whole["moments"], [], pytestconfig.getoption("long")
    for folder in ("cache/pretrain", "cache/teacher", "s0/"):  # of backbone, teacher and student
        assert {m.split()[-1] for m in moments if folder in m} == {
            *("write", "written", "fsync", "replace", "unlink")
        }
    chosen = moments if long else one_of_each_kind(moments)
    assert len(chosen) >= 50 and all(any(f in m for m in chosen) for f in ("/pretrain", "/teacher", "s0/"))
    for moment in chosen:
        finished = not killed or not killed[-1]  # a start that passes no moment of its name ends the work
        answer = forks.start(kill_at=moment, fresh=finished or long)
        assert "error" not in answer, (moment, answer)
        killed.append(answer.get("signal") == signal.SIGKILL)
        if long:
            assert killed[-1], moment
            assert forks.start()["result"] == whole["result"], moment
    assert forks.start()["result"] == whole["result"]
    assert sum(killed) >= 50 and any("/table2.ipynb " in moment for moment in chosen)


def test_killed_at_random_moments(forks, whole, pytestconfig):
    chance = random.Random(0)
    for _ in range(60 if pytestconfig.getoption("long") else 2):
        fresh = True
        for _ in range(5):
            answer = forks.start(after=chance.uniform(0, 0.6 * whole["seconds"]), fresh=fresh)
            assert "error" not in answer, answer
            fresh = False
        assert forks.start()["result"] == whole["result"]
