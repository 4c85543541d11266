"""Many runs at once, each in its own process and after those it needs; with one progress line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any

import torch
from tqdm import tqdm

from c2dlib.config.experiment import Experiment, check_jobs
from c2dlib.config.identity import PRETRAINING, job_key
from c2dlib.config.methods import imitation_in, needs_classifier
from c2dlib.distributed import claim_gpu
from c2dlib.records import RunRecord, command
from c2dlib.training.classifiers import classifier_teacher, initial_weights
from c2dlib.training.finished import find_record, finished, sweep_leftovers
from c2dlib.training.run import record_killed, run, trained_detector_teacher
from c2dlib.training.workers import Send, Worker
from c2dlib.workspace import Workspace, new_bar


@dataclass(frozen=True)
class Job:
    """One thing to compute: a pre-training, a classifier or a run; done once however many need it."""

    kind: str  # pretrain, teacher, run
    e: Experiment
    needs: tuple = ()
    with_weights: bool = False  # a run that is recorded but has no checkpoint here is trained again

    @property
    def key(self) -> str:
        return job_key(self.kind, self.e)


def plan(experiments: list[Experiment], workspace: Workspace, with_weights: bool = False) -> list[Job]:
    """The jobs of the unfinished experiments in order, each after those it needs, and none twice."""
    jobs: dict[str, Job] = {}

    def add(e: Experiment, with_weights: bool = False) -> str:
        if finished(e, workspace, with_weights):
            return job_key("run", e)  # a finished run needs no other job
        needs = []
        if e.backbone_weights in PRETRAINING:
            needs.append(Job("pretrain", e.replace(method="baseline")))
        if needs_classifier(e.method):
            needs.append(Job("teacher", e))
        keys = [jobs.setdefault(j.key, j).key for j in needs]
        if imitation_in(e.method):
            keys.append(add(trained_detector_teacher(e, workspace), with_weights=True))
        job = Job("run", e, tuple(keys), with_weights)
        return jobs.setdefault(job.key, job).key

    for e in experiments:
        add(e, with_weights)
    return list(jobs.values())


def run_all(
    experiments: list[Experiment],
    workspace: Workspace,
    jobs: int = 0,
    each: Callable[[RunRecord], None] = lambda record: None,
    with_weights: bool = False,
) -> list[RunRecord | None]:
    """Run experiments, ``jobs`` at a time (0: one per core on CPU, one per GPU), one thread each on CPU.

    Args:
        each: called with every record as soon as there is one, finished runs first. The bar is on stdout in
            a notebook, else on stderr.
        with_weights: train again what is recorded but has no checkpoint here.

    Returns:
        A record per experiment, None where the run ended in an unexpected error (shown on stderr).

    Raises:
        ValueError: if ``jobs`` is negative.
    """
    check_jobs(jobs)
    experiments = [e.with_hashes() for e in experiments]  # a file of weights may be replaced before the end
    sweep_leftovers(workspace)
    planned = plan(experiments, workspace, with_weights)
    waiting = {j.key for j in planned}
    for e in experiments:
        record = None if job_key("run", e) in waiting else find_record(e, workspace)
        if record:
            each(record)
    wanted = {e.hash() for e in experiments}
    if planned:
        jobs = min(
            jobs or (torch.cuda.device_count() if workspace.device == "cuda" else os.cpu_count() or 1),
            len(planned),
        )
        for job, record in _execute(planned, workspace, jobs):
            if job.kind == "run" and job.e.hash() in wanted and record:
                each(record)
    return [find_record(e, workspace) for e in experiments]


def _execute(planned: list[Job], workspace: Workspace, jobs: int) -> Iterator[tuple[Job, RunRecord | None]]:
    """Yield (job, its record or None) as jobs finish, never starting one before what it needs.

    A worker that is killed ends no job but its own; another one takes its place.
    """
    todo, ended, known = list(planned), set[str](), {j.key for j in planned}
    do, prepare = partial(_do, workspace=workspace), partial(_begin, workspace, command())
    workers: list[Worker] = []
    bar = _Bar(len(planned))
    try:
        while todo or any(worker.job for worker in workers):
            for job in [j for j in todo if all(k in ended or k not in known for k in j.needs)]:
                if _start(job, workers, jobs, do, prepare):
                    todo.remove(job)
            busy = {worker.connection: worker for worker in workers if worker.job}
            for connection in wait(list(busy), timeout=0.3):
                worker = busy[connection]  # type: ignore[index]
                for kind, *content in worker.messages():
                    if kind == "progress":
                        bar.progress(worker, *content)
                        continue
                    job, worker.job = worker.job, None
                    if kind == "killed":
                        workers.remove(worker)
                    if job is None:  # killed after it had sent its result
                        continue
                    ended.add(job.key)
                    bar.finish(worker)
                    yield job, _result(job, kind, content[0], workspace)
            bar.show()
    finally:
        bar.close()
        for worker in workers:
            worker.end()


def _start(job: Job, workers: list[Worker], jobs: int, do: Callable, prepare: Callable) -> bool:
    """Give a job to a worker that has none, or to a new one; False if there are ``jobs`` that are busy."""
    for worker in [worker for worker in workers if not worker.job]:
        if worker.start(job):
            return True
        workers.remove(worker)  # killed while it had no job
    if len(workers) == jobs:
        return False
    workers.append(Worker(do, prepare))
    return workers[-1].start(job)


def _result(job: Job, kind: str, content: Any, workspace: Workspace) -> RunRecord | None:
    """The record of a job that ended; why it ended is printed if that was not as expected."""
    if kind == "result":
        return content
    tqdm.write(f"{job.key} ({job.e.student} {job.e.method}): {content}", file=sys.stderr)
    return record_killed(job.e, workspace, content) if (kind, job.kind) == ("killed", "run") else None


def _begin(workspace: Workspace, parent_command: str) -> None:
    """Prepare a worker: one thread on CPU or a GPU of its own."""
    os.environ["C2D_COMMAND"] = parent_command
    if workspace.device == "cpu":
        torch.set_num_threads(1)
    else:
        claim_gpu(workspace.runs / "locks")


def _do(job: Job, send: Send, workspace: Workspace) -> RunRecord | None:
    """In a worker: do a job, and report its progress twice a second."""
    e, last = job.e, [0.0]

    def progress(what: str, done: int, of: int) -> None:
        if done == of or time.monotonic() - last[0] > 0.5:
            last[0] = time.monotonic()
            send(what, done, of)

    if job.kind == "pretrain":
        initial_weights(e, workspace, progress)
    elif job.kind == "teacher":
        classifier_teacher(e, workspace, progress)
    else:
        return run(e, workspace, progress, job.with_weights)
    return None


class _Bar:
    """One line: jobs done, what runs now and how far it is, time left."""

    def __init__(self, jobs: int):
        self.done, self.shown = 0, 0.0
        self.now: dict[Worker, tuple[str, int, int]] = {}  # what each does, steps done, steps in all
        self.bar = new_bar(
            total=jobs,
            unit="run",
            smoothing=0,
            bar_format="{n:.1f}/{total} jobs |{bar:12}| {elapsed} < {remaining} {postfix}",
        )

    def progress(self, worker: Worker, what: str, done: int, of: int) -> None:
        self.now[worker] = (what, done, of)

    def show(self) -> None:
        if time.monotonic() - self.shown > 1:  # an executed notebook keeps every line until its cell ends
            self.shown = time.monotonic()
            self.bar.n = self.done + sum(done / of for what, done, of in self.now.values())
            self.bar.set_postfix_str(
                " · ".join(f"{what} {done}/{of}" for what, done, of in self.now.values())
            )

    def finish(self, worker: Worker) -> None:
        self.done += 1
        self.now.pop(worker, None)

    def close(self) -> None:
        self.bar.n = self.done
        self.bar.set_postfix_str("")
        self.bar.close()
