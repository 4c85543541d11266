"""A process that does a small piece of work again and again, each time in a fork that is killed.

It imports torch once. ``tests/training/test_crashes.py`` talks to it in lines of JSON.
"""

import builtins
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from c2dlib import files
from c2dlib.reporting import notebooks
from c2dlib.reporting.tables import write_table
from c2dlib.reporting.work_list import Row
from c2dlib.training import loop
from c2dlib.training.finished import run_folder, sweep_leftovers
from c2dlib.training.run import experiment_for, run
from c2dlib.workspace import open_workspace

STUDENT = "SSD300-VGG16"
HASH = re.compile(r"[.-]([0-9a-f]{12}|[0-9a-f]{16})(?=[./]|$)")
SETTINGS = {
    "steps": 3,
    "image_size": 64,
    "batch_size": 2,
    "teacher_steps": 2,
    "teacher_images": 2,
    "pretrain_steps": 2,
    "pretrain_batch": 2,
    "backbone_weights": "crops",
}


def work(root: Path, data: str) -> dict:
    """Train a backbone, a teacher and a student, write a table, keep two notebooks that name each other.

    Returns:
        What must not depend on kills.
    """
    workspace, folder = open_workspace(
        "smoke", data, root / "results", root / "runs", "cpu", check_images=False
    )
    sweep_leftovers(workspace)
    e = experiment_for(workspace, folder, STUDENT, "KDcls", **SETTINGS)
    record = run(e, workspace, with_weights=True)
    frame = write_table("table1", [Row(STUDENT, "KDcls", {"mAP": 1.0}, (e,))], workspace, folder)
    for name in ("table1", "table2"):
        source, target = notebooks.FOLDER / f"{name}.ipynb", workspace.results / f"{name}.ipynb"
        notebooks._keep(str(source), target, workspace)
    return {
        "notebooks": [files.sha256(path.read_bytes()) for path in sorted(workspace.results.glob("*.ipynb"))],
        "metrics": record.metrics,
        "checkpoint": record.checkpoint_sha256,
        "detections": files.sha256((run_folder(e, workspace) / "detections.json.gz").read_bytes()),
        "curve": record.curve,
        "teacher": record.teacher,
        "origin": record.origin,
        "mAP": list(frame.mAP),
        "files": sorted(
            str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and p.suffix != ".lock"
        ),
    }


class Boundaries:
    """Every moment before and after a write, fsync or rename, and before and after a removal.

    A moment is named by the path of its file below the root, without the hashes in it.
    """

    def __init__(self, root: Path, kill_at: str):
        self.kill_at, self.seen, self.name = kill_at, [], ""
        real_write, real_unlink = files.write_whole, Path.unlink

        def name_of(path: Path) -> str:
            return HASH.sub("", str(path.relative_to(root)))

        def write_whole(path: Path, content: bytes | str) -> None:
            self.name = name_of(path)
            real_write(path, content)

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if path.exists() and not path.name.startswith("."):
                self.name = name_of(path)
                self.around("unlink", real_unlink, path)

        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("c2dlib") and hasattr(module, "write_whole"):
                module.write_whole = write_whole
        Path.unlink = lambda path, missing_ok=False: (
            real_unlink(path, missing_ok) if path.name.startswith(".") else unlink(path)
        )
        for name in ("fsync", "replace"):
            real = getattr(os, name)
            setattr(os, name, lambda *a, _name=name, _real=real: self.around(_name, _real, *a))
        files.open = self.open

    def at(self, moment: str) -> None:
        moment = f"{self.name} {moment}"
        if moment not in self.seen:
            self.seen.append(moment)
        if moment == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, real, *arguments):
        self.at(f"before {what}")
        real(*arguments)
        self.at(f"after {what}")

    def open(self, *arguments, **options):
        file, boundaries = builtins.open(*arguments, **options), self
        if "wb" not in arguments:
            return file
        self.at("before write")

        class Half:
            def write(self, content):
                file.write(content[: len(content) // 2])
                file.flush()
                boundaries.at("half written")
                file.write(content[len(content) // 2 :])

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

        return Half()


def start(root: Path, data: str, kill_at: str = "", after: float = 0.0) -> dict:
    """Do the work in a fork; return its result, or the signal that ended it."""
    answer = root.parent / "answer.json"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        boundaries = Boundaries(root, kill_at)
        try:
            result = work(root, data)
            answer.write_text(json.dumps({"result": result, "moments": boundaries.seen}))
        except BaseException as error:
            answer.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        os._exit(0)
    if after:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    return json.loads(answer.read_text())


def main() -> None:
    """Answer each line of JSON on stdin, the arguments of ``start``, with one on stdout."""
    torch.set_num_threads(1)
    loop.CHECKPOINT_SECONDS = 0
    for line in sys.stdin:
        arguments = json.loads(line)
        root = Path(arguments.pop("root"))
        if arguments.pop("fresh", False):
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
        began = time.monotonic()
        print(json.dumps(start(root, **arguments) | {"seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    random.seed(0)
    main()
