"""Processes that do jobs, one after another each. None outlives its parent, and none ends with another."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from c2dlib.distributed import end_with_parent

Send = Callable[..., None]  # reports progress to the parent: what, steps done, steps in all


class Worker:
    """A process and the job that it does; ``job`` is None while it has none.

    Args:
        do: job, ``Send`` -> result; called in the process for each job. It is pickled, as the next is.
        prepare: called once in the process, before the first job.
    """

    def __init__(self, do: Callable[[Any, Send], Any], prepare: Callable[[], None]):
        context = multiprocessing.get_context("spawn")
        self.job: Any = None
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, os.getpid(), do, prepare))
        # Ctrl-C reaches the parent alone, which ends its workers; they inherit which signals are blocked.
        # multiprocessing's resource tracker unblocks SIGINT when it starts, so it is started before.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()  # so that this end is told when the process ends

    def start(self, job: Any) -> bool:
        """Give it a job; False if the process has ended."""
        try:
            self.connection.send(job)
        except OSError:
            return False
        self.job = job
        return True

    def messages(self) -> list[tuple]:
        """What it sent since the last call.

        ``("progress", what, done, of)``, and at the end of a job ``("result", result)``,
        ``("error", what was raised)`` or ``("killed", by what)``.
        """
        received: list[tuple] = []
        try:
            while self.connection.poll():
                received.append(self.connection.recv())
        except (EOFError, OSError):
            self.process.join()
            received.append(("killed", _how_it_ended(self.process.exitcode or 0)))
        return received

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
        self.connection.close()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name
    why = "; the system does this if memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{why}"


def _work(connection: Connection, parent: int, do: Callable, prepare: Callable[[], None]) -> None:
    """Do jobs until the parent closes the pipe."""
    end_with_parent(parent)

    def send(*progress: Any) -> None:
        connection.send(("progress", *progress))

    try:
        prepare()
        while True:
            job = connection.recv()
            try:
                answer = ("result", do(job, send))
            except Exception as error:
                answer = ("error", f"{type(error).__name__}: {error}")
            connection.send(answer)
    except EOFError:
        pass
