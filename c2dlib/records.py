"""RunRecord: everything a number of a table is traced to, in one small file that contains its own hash."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

from c2dlib.files import json_with_hash, read_json_with_hash, write_whole

PACKAGES = ["torch", "torchvision", "timm", "accelerate", "hotcoco", "pycocotools", "numpy"]
ROOT = Path(__file__).resolve().parents[1]  # of the repository
PUBLISHED = ROOT / "results" / "published"  # what the project publishes: <data>-<scale>/
# Data sets that are made here, where DATA names no folder -> their family, see data/badges.py.
EMBEDDED = {"badges": "graded", "badges-4": "merged", "badges-crowded": "crowded"}
# A path that is absolute or begins with ../, perhaps with NAME= before it: NAME= and the path's last part.
OUTSIDE = re.compile(r"^([^/]*?=)?(?:/|\.\./)(?:.*/)?([^/]+)/*$")


class RecordError(Exception):
    """A record is truncated, altered, or of another experiment."""


@dataclass(frozen=True)
class RunRecord:
    """One finished (or failed) run."""

    hash: str  # of the identity in ``experiment``
    status: str  # done, failed or OOM
    reason: str  # why the status is not done; "" if it is
    student: str
    method: str
    seed: int
    scale: str  # a file of config/scales
    experiment: dict  # the identity: every setting the numbers depend on, see config.identity
    metrics: dict  # name -> percent; None where no object has that size
    eval_split: str  # split the metrics are computed on: val or test
    parameters: int  # of the student, as used at inference
    seconds_per_step: float  # median over the run
    wall_seconds: float  # training and evaluation, summed over all interrupted parts
    # hash of settings, hash of weights (not in records of earlier versions), top-1, ECE of the classification
    # teacher, and mAP of the detector teacher; {} for none
    teacher: dict
    curve: dict  # name of a loss term -> its values along the run
    data: dict  # name, annotation hash, images per split
    checkpoint_sha256: str
    command: str  # that produced the run
    commit: str  # of this repository, when the run ended
    dirty: bool  # whether the code differed from that commit
    versions: dict  # of Python and PACKAGES, when the run ended
    device: str  # several, each with its steps and most first, if the run went on elsewhere
    # time of a step's forward and backward over that of the same step without distillation; 0: not known
    relative_seconds: float = 0.0
    processes: int = 1  # that shared each batch
    memory_mb: float = 0.0  # peak during training: of all tensors (GPU) or of the process (CPU); 0: not known
    # step -> metrics on val during training; {} unless validate_every is set
    validation: dict = field(default_factory=dict)
    detections_sha256: str = ""  # of detections.json.gz; "" in records of earlier versions
    # commit, dirty, torch (its version) and number of steps of each part, most first; [] if all steps are of
    # the commit and version above, and in records of earlier versions
    code: list = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.student}.{self.method}.s{self.seed}.{self.hash}"

    @property
    def origin(self) -> str:
        """Hash of the student's initial weights, or their name.

        Pre-training rounds differently on another CPU, so the same settings may give other weights there.
        Records without this entry have ''; all such records of one data set come from one machine.
        """
        return self.data.get("initial_weights", "")

    @property
    def every_code(self) -> list[dict]:
        """Commit and dirty flag of the code that ended the run, and of those that trained a part of it."""
        return [{"commit": self.commit, "dirty": self.dirty}, *self.code]

    @property
    def device_kind(self) -> str:
        """``CPU`` or ``GPU``: that of most of the run's steps."""
        return "CPU" if self.device.startswith("cpu") else "GPU"

    @property
    def device_names(self) -> str:
        """``device`` without the number of steps that each did."""
        return re.sub(r" \(\d+ steps\)", "", self.device)

    @property
    def pairing(self) -> str:
        """Initial weights and kind of device: a gain is computed only between runs that share them."""
        return f"{self.origin} {self.device_kind}"


def embedded(data: str | Path) -> str:
    """The name of the embedded data set that ``data`` means; "" for a folder of one's own.

    Args:
        data: a folder, or a name in EMBEDDED where there is no folder of that name; empty: Badges.
    """
    name = str(data) or "badges"
    return name if name in EMBEDDED and not (data and Path(data).exists()) else ""


def data_name(data: str | Path) -> str:
    """What data are called in results: the folder's name, or a YAML file's; of ``data.yaml`` its folder's."""
    place = Path(os.path.abspath(Path(data).expanduser()))
    if place.suffix.lower() in (".yaml", ".yml"):
        return place.parent.name if place.stem in ("data", "dataset") else place.stem
    return place.name


def write_record(record: RunRecord, folder: Path) -> Path:
    """Write ``<student>.<method>.s<seed>.<hash>.json`` with a hash of its own content; return its path."""
    body = dataclasses.asdict(record)
    path = folder / f"{record.name}.json"
    write_whole(path, json_with_hash(body, sort_keys=True) + "\n")
    return path


def read_record(path: Path) -> RunRecord:
    """Read and verify a record.

    Raises:
        RecordError: if the file is truncated, was altered or renamed, or lacks a field.
    """
    try:
        text = path.read_bytes().decode()
        record = RunRecord(**read_json_with_hash(text.removesuffix("\n")))
        if not text.endswith("\n"):
            raise ValueError("its end is missing")
    except (OSError, ValueError, TypeError) as error:
        raise RecordError(
            f"{path}: not a whole run record ({error}); not used. Delete it to run again."
        ) from error
    if path.stem != record.name:
        raise RecordError(f"{path}: holds the record of {record.name}; not used.")
    return record


def results_name(scale: str, data: str | Path = "") -> str:
    """The folder of the results on these data, inside ``results/`` and ``results/published/``.

    Args:
        data: the data folder; empty, or the name of an embedded data set: that one.
    """
    if name := embedded(data):
        return f"{name}-{scale}"
    name = data_name(data)
    return f"{name}{'-of-yours' if name in EMBEDDED else ''}-{scale}"


def recorded_seeds(results: Path) -> dict[tuple[str, str], list[int]]:
    """(student, method) -> the seeds of which a results folder has a record, with whatever settings."""
    seeds: dict[tuple[str, str], set[int]] = {}
    for path in (results / "records").glob("*.s*.*.json"):
        student, method, seed = path.name.split(".")[:3]
        if seed[1:].isdigit():
            seeds.setdefault((student, method), set()).add(int(seed[1:]))
    return {key: sorted(found) for key, found in seeds.items()}


def command() -> str:
    """The command that started this process, or a worker's parent process, without the machine's paths.

    Of a path that is absolute or begins with ``..`` only the last part is kept, also after a ``=``: records
    are published.
    """
    program = Path(sys.argv[0])
    arguments = [OUTSIDE.sub(r"\1\2", word) for word in sys.argv[1:]]
    own_command = (
        f"python -m c2dlib {shlex.join(arguments)}" if program.parent.name == "c2dlib" else program.name
    )
    return os.environ.get("C2D_COMMAND", own_command)


def interpreter(start: Path | None = None) -> str:
    """The Python of this process as a shell reaches it from a folder, such as ``.venv/bin/python``.

    Args:
        start: the folder; None: the working directory.
    """
    path, start = Path(sys.executable), start or Path.cwd()
    return shlex.quote(str(path.relative_to(start) if path.is_relative_to(start) else path))


def git_environment() -> dict[str, str]:
    """The environment for git: it asks no questions, and no variable names another repository."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    return kept | {"GIT_TERMINAL_PROMPT": "0"}


@cache
def circumstances() -> dict:
    """Commit, dirty flag and versions of the code that this process runs.

    They are read at the first call and kept, because a later checkout does not change the code that is
    already loaded. The commit is ``unknown`` where the code is not in a repository of its own: unpacked from
    an archive or installed, it may lie in a folder of another repository.
    """

    def git(*args: str) -> str:
        try:
            completed = subprocess.run(
                ["git", "-C", str(ROOT), *args],
                check=False,
                capture_output=True,
                text=True,
                env=git_environment(),
            )
        except OSError:  # git is not installed
            return "unknown"
        return completed.stdout.strip() if completed.returncode == 0 else "unknown"

    # Else ROOT lies below the folder of another repository, or in none.
    own = git("rev-parse", "--show-prefix") == ""
    changes = git("status", "--porcelain", "--", "c2dlib", "pyproject.toml", "requirements.lock")
    return {
        "commit": git("rev-parse", "HEAD") if own else "unknown",
        "dirty": not own or bool(changes),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
    }


def code_version() -> dict:
    """Commit, dirty flag and version of torch of this process, as a run's log and record have them."""
    now = circumstances()
    return {"commit": now["commit"], "dirty": now["dirty"], "torch": now["versions"]["torch"]}
