"""RunRecord: everything a number in a table can be traced to, in one small file that checks itself."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

from c2dlib.files import sha256, write_whole

PACKAGES = ["torch", "torchvision", "timm", "accelerate", "hotcoco", "pycocotools", "numpy"]
ROOT = Path(__file__).resolve().parents[1]


class RecordError(Exception):
    """A record that is truncated, altered, or of another experiment."""


@dataclass(frozen=True)
class RunRecord:
    """One finished (or failed) run."""

    hash: str  # of the experiment's identity
    status: str  # done, failed or OOM
    reason: str  # of a status other than done
    student: str
    method: str
    seed: int
    scale: str
    experiment: dict  # the identity: every setting the numbers depend on
    metrics: dict  # name -> percent, None where no object has that size
    eval_split: str
    parameters: int  # of the student, as used at inference
    seconds_per_step: float  # median over the run
    wall_seconds: float  # training and evaluation, summed over interruptions
    teacher: dict  # the classifier's hash, top-1, ECE (and the detector teacher's mAP); {} for none
    curve: dict  # name of loss term -> values along the run
    data: dict  # name, annotation hash, images per split
    checkpoint_sha256: str
    command: str
    commit: str
    dirty: bool
    versions: dict
    device: str
    relative_seconds: float = 0.0  # forward and backward of a step in time of the plain student's; 0: not known
    processes: int = 1  # that shared its batches
    memory_mb: float = 0.0  # peak while training: of tensors (GPU), of the whole process (CPU); 0: not known
    validation: dict = field(default_factory=dict)  # step -> metrics on val while it trained, where it was evaluated then

    @property
    def name(self) -> str:
        return f"{self.student}.{self.method}.s{self.seed}.{self.hash}"

    @property
    def origin(self) -> str:
        """Of the student's initial weights. Pre-training rounds differently on another CPU, and its seeds share one: only runs of
        one origin are compared. '' for records from before it was written down, all of one machine per data set."""
        return self.data.get("initial_weights", "")


def write_record(record: RunRecord, folder: Path) -> Path:
    """Write ``<student>.<method>.s<seed>.<hash>.json`` with a hash of its own content."""
    body = dataclasses.asdict(record)
    path = folder / f"{record.name}.json"
    write_whole(path, json.dumps({**body, "sha256": body_hash(body)}, indent=1, sort_keys=True) + "\n")
    return path


def read_record(path: Path) -> RunRecord:
    """Read and verify a record.

    Raises:
        RecordError: if the file is not whole, was altered, or lacks a field.
    """
    try:
        body = json.loads(path.read_text())
        claimed = body.pop("sha256")
        record = RunRecord(**body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: not a whole run record ({error}); not used. Delete it to run again.") from error
    if body_hash(body) != claimed:
        raise RecordError(f"{path}: content does not match its hash; not used. Delete it to run again.")
    if path.stem != record.name:
        raise RecordError(f"{path}: holds the record of {record.name}; not used.")
    return record


def body_hash(body: dict) -> str:
    return sha256(json.dumps(body, sort_keys=True).encode())


def command() -> str:
    """What made this process, without any path of the machine: a worker has it from its parent."""
    program = Path(sys.argv[0])
    here = f"python -m c2dlib {shlex.join(sys.argv[1:])}" if program.parent.name == "c2dlib" else program.name
    return os.environ.get("C2D_COMMAND", here)


@cache
def circumstances() -> dict:
    """Commit, dirty flag and versions when this process first asked: its code is not read again if they change."""
    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *args], check=False, capture_output=True,
                              text=True)
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    changes = git("status", "--porcelain", "--", "c2dlib", "pyproject.toml", "requirements.lock")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes),
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}}}
