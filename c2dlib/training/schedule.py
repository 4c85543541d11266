"""Many runs at once, each in its own process and after those it needs; with one progress line."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from c2dlib.config.experiment import Experiment
from c2dlib.config.identity import PRETRAINING, job_key
from c2dlib.config.methods import imitation_in, needs_classifier
from c2dlib.distributed import claim_gpu
from c2dlib.records import RunRecord, command
from c2dlib.training.classifiers import classifier_teacher, initial_weights
from c2dlib.training.run import detector_teacher, find_record, finished, run
from c2dlib.workspace import Workspace

_messages: Any = None  # in a worker: the queue that its progress goes to


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
            keys.append(add(detector_teacher(e), with_weights=True))
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
        each: called with every record as soon as there is one, finished runs first.
        with_weights: train again what is recorded but has no checkpoint here.

    Returns:
        A record per experiment, None where the run ended in an unexpected error (shown on stderr).
    """
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


def _execute(planned: list[Job], workspace: Workspace, jobs: int):
    """Yield (job, its record or None) as jobs finish, never starting one before what it needs."""
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(jobs, context, _begin, (messages, os.getpid(), workspace, command()))
    todo, ended = list(planned), set[str]()
    running: dict[Future, Job] = {}
    known = {j.key for j in planned}
    bar = _Bar(planned, messages)
    try:
        while todo or running:
            for job in [j for j in todo if all(k in ended or k not in known for k in j.needs)]:
                if len(running) < jobs:
                    todo.remove(job)
                    running[pool.submit(_do, job, workspace)] = job
            done, _ = wait(running, timeout=0.3, return_when=FIRST_COMPLETED)
            bar.update()
            for future in done:
                job = running.pop(future)
                ended.add(job.key)
                bar.finish(job)
                yield job, _result(future, job)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the last checkpoints.", file=sys.stderr)
        raise
    finally:
        bar.close()
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _result(future: Future, job: Job) -> RunRecord | None:
    if error := future.exception():
        tqdm.write(
            f"{job.key} ({job.e.student} {job.e.method}): {type(error).__name__}: {error}", file=sys.stderr
        )
        return None
    return future.result()


def _begin(messages, parent: int, workspace: Workspace, parent_command: str) -> None:
    """Prepare a worker: one thread on CPU or a GPU of its own. It ends when its parent does."""
    global _messages
    _messages = messages
    os.environ["C2D_COMMAND"] = parent_command
    if workspace.device == "cpu":
        torch.set_num_threads(1)
    else:
        claim_gpu(workspace.runs / "locks")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do(job: Job, workspace: Workspace) -> RunRecord | None:
    e, last = job.e, [0.0]

    def progress(what: str, done: int, of: int) -> None:
        if done == of or time.monotonic() - last[0] > 0.5:
            last[0] = time.monotonic()
            _messages.put((os.getpid(), what, done, of))

    if job.kind == "pretrain":
        initial_weights(e, workspace, progress)
    elif job.kind == "teacher":
        classifier_teacher(e, workspace, progress)
    else:
        return run(e, workspace, progress, job.with_weights)
    return None


class _Bar:
    """One line: jobs done, what runs now and how far it is, time left."""

    def __init__(self, planned: list[Job], messages):
        self.messages, self.done = messages, 0
        self.now: dict[int, tuple[str, int, int]] = {}  # process -> what it does, steps done, steps in all
        self.bar = tqdm(
            total=len(planned),
            unit="run",
            dynamic_ncols=True,
            smoothing=0,
            bar_format="{n:.1f}/{total} jobs |{bar:12}| {elapsed} < {remaining} {postfix}",
        )

    def update(self) -> None:
        while not self.messages.empty():
            process, what, done, of = self.messages.get()
            self.now[process] = (what, done, of)
        self.bar.n = self.done + sum(done / of for what, done, of in self.now.values())
        self.bar.set_postfix_str(" · ".join(f"{what} {done}/{of}" for what, done, of in self.now.values()))

    def finish(self, job: Job) -> None:
        self.done += 1
        self.now = {p: v for p, v in self.now.items() if v[1] < v[2]}

    def close(self) -> None:
        self.bar.close()
