"""A worker that is killed ends no other job; no worker outlives its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from c2dlib.cli import main
from c2dlib.training import schedule
from c2dlib.training.finished import find_record
from c2dlib.training.run import experiment_for, record_killed
from c2dlib.training.schedule import run_all
from c2dlib.training.workers import Worker
from c2dlib.workspace import open_workspace

ROOT = Path(__file__).resolve().parents[2]


def nothing() -> None:
    pass


def do_or_die(job: schedule.Job, send, workspace):
    """Jobs without training: seed 1 is killed, seed 2 raises, the others end after it is."""
    if job.e.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.e.seed == 2:
        raise ValueError("as told")
    send("waiting", 1, 2)
    time.sleep(0.5)
    return record_killed(job.e, workspace, "written by the worker")


@pytest.fixture
def place(tmp_path):
    return open_workspace("smoke", "", tmp_path / "results", tmp_path / "runs", "cpu")


def test_a_killed_worker_is_named_in_its_row_and_the_others_go_on(place, monkeypatch, capsys):
    workspace, folder = place
    experiments = [
        experiment_for(workspace, folder, "SSD300-VGG16", "baseline", seed, backbone_weights="none")
        for seed in range(5)
    ]
    monkeypatch.setattr(schedule, "_do", do_or_die)
    seen = []
    records = run_all(experiments, workspace, 2, seen.append)
    killed = records.pop(1)
    assert killed.status == "failed" and "ended by SIGKILL" in killed.reason and killed in seen
    assert records.pop(1) is None and "ValueError: as told" in capsys.readouterr().err
    assert len(records) == 3 and all("written by the worker" in record.reason for record in records)
    assert find_record(experiments[1], workspace) == killed


def do_and_replace_the_weights(job: schedule.Job, send, workspace):
    """A run in which the file of initial weights becomes another one."""
    e = job.e.with_hashes()
    Path(e.backbone_weights.partition("@")[0]).write_bytes(b"other")
    return record_killed(e, workspace, "written by the worker")


@pytest.mark.parametrize("named", ["by the caller", "by the table"])
def test_a_file_of_weights_may_be_replaced_while_a_table_is_trained(place, monkeypatch, tmp_path, named):
    """The caller finds the records too: those of the weights that the runs began with."""
    (workspace, folder), file = place, tmp_path / "body.safetensors"
    file.write_bytes(b"first")
    if named == "by the table":
        e = experiment_for(workspace, folder, "SSD300-VGG16", backbone_weights=str(file))
    else:
        e = experiment_for(workspace, folder, "SSD300-VGG16").replace(backbone_weights=str(file))
    before, seen = e.hash(), []
    monkeypatch.setattr(schedule, "_do", do_and_replace_the_weights)
    (record,) = run_all([e], workspace, 1, seen.append)
    assert file.read_bytes() == b"other" and record in seen and record.hash == before
    if named == "by the table":
        assert e.hash() == before and find_record(e, workspace) == record


class KilledAfterItsResult:
    """A worker whose result and end are read together."""

    ended = 0

    def __init__(self, do, prepare):
        self.job, self.connection = None, None

    def start(self, job) -> bool:
        self.job = job
        return True

    def messages(self) -> list[tuple]:
        return [
            ("result", f"record of seed {self.job.e.seed}"),
            ("killed", "its process was ended by SIGKILL"),
        ]

    def end(self) -> None:
        type(self).ended += 1


def test_a_worker_that_is_killed_after_its_result_ends_no_other_job(place, monkeypatch):
    workspace, folder = place
    experiments = [
        experiment_for(workspace, folder, "SSD300-VGG16", "baseline", seed, backbone_weights="none")
        for seed in range(3)
    ]
    monkeypatch.setattr(schedule, "Worker", KilledAfterItsResult)
    monkeypatch.setattr(schedule, "wait", lambda connections, timeout: connections)
    jobs = schedule.plan(experiments, workspace)
    records = [record for _, record in schedule._execute(jobs, workspace, 1)]
    assert records == [f"record of seed {seed}" for seed in range(3)]
    assert KilledAfterItsResult.ended == 0  # each has ended by itself


@pytest.mark.parametrize("command", [["reproduce", "table2", "--scale", "smoke"], ["train"]])
def test_a_negative_number_of_jobs_is_refused(place, capsys, command):
    assert main([*command, "--jobs", "-1"]) == 2
    assert "JOBS=-1 must be at least 1, or 0 for one per core" in capsys.readouterr().err
    with pytest.raises(ValueError, match="JOBS=-1 must be at least 1"):
        run_all([], place[0], -1)


def test_a_worker_that_died_without_a_job_is_replaced():
    worker = Worker(partial(print), nothing)
    worker.process.kill()
    worker.process.join()
    workers = [worker]
    deadline = time.monotonic() + 20
    while worker.start("job") and time.monotonic() < deadline:  # the pipe may take it before it is closed
        assert worker.messages()[-1][0] == "killed"
        worker.job = None
    assert schedule._start("job", workers, 1, partial(print), nothing) and workers != [worker]
    workers[0].end()


def blocked(job, send):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_ctrl_c_reaches_the_parent_alone():
    """A terminal sends it to every process; a worker's traceback would hide the parent's line."""
    worker = Worker(blocked, nothing)
    worker.start("job")
    while not (received := worker.messages()):
        time.sleep(0.05)
    worker.end()
    assert received == [("result", True)]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


PARENT = """
import signal, sys, time
from c2dlib.training.workers import Worker
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell would have it ignored
def nothing(): pass
def busy(job, send):
    send("busy", 1, 2)
    while True:  # holds the interpreter for long stretches, as a metric does
        sum(range(10**7))
if __name__ == "__main__":
    workers = [Worker(busy, nothing) for _ in range(2)]
    try:
        for worker in workers:
            worker.start("job")
            while not worker.messages(): time.sleep(0.05)
        print([worker.process.pid for worker in workers], flush=True)
        time.sleep(60)
    finally:
        for worker in workers:
            worker.end()
"""


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_worker_outlives_its_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    signals = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    parents = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "parent.py")],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in signals
    ]
    workers = [json.loads(parent.stdout.readline()) for parent in parents]
    assert all(alive(pid) for pids in workers for pid in pids)
    for parent, number in zip(parents, signals, strict=True):
        parent.send_signal(number)
    deadline = time.monotonic() + 5
    while any(alive(pid) for pids in workers for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = {number.name: pids for number, pids in zip(signals, workers, strict=True) if any(map(alive, pids))}
    for parent in parents:
        parent.kill()
        parent.wait()
    for pids in left.values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    assert not left
