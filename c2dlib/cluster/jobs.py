"""A table as independent jobs: their commands, what each waits for, estimated hours and memory; for Slurm, or for ``make -j``."""

from __future__ import annotations

import dataclasses
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from c2dlib.cluster.cost import Gpu, estimate
from c2dlib.config.experiment import Experiment
from c2dlib.data.coco import CocoFolder
from c2dlib.files import write_whole
from c2dlib.training.run import experiment_for
from c2dlib.training.schedule import plan
from c2dlib.workspace import Workspace


@dataclass(frozen=True)
class Line:
    """One job of a plan."""

    name: str
    command: str
    processes: int
    needs: tuple[int, ...]  # lines, by number
    level: int  # the longest way to it; lines of one level are independent
    hours: float
    memory_gb: float  # per GPU
    source: str  # of hours: measured, counted, unknown


def lines(experiments: list[Experiment], workspace: Workspace, folder: CocoFolder, options: str, gpu: Gpu, gpus: int = 1) -> list[Line]:
    """What is not finished yet, each behind what it needs.

    Args:
        options: what every command says of scale and data.
        gpus: processes per run. Classifiers, which are small, always train in one.
    """
    jobs, images, made = plan(experiments, workspace), len(folder.splits["train"].with_boxes()), []
    index, first_for = {job.key: i for i, job in enumerate(jobs)}, {}
    for e in experiments:
        for job in plan([e], workspace):
            first_for.setdefault(job.key, e)
    for job in jobs:
        row = first_for[job.key]  # a prerequisite is named by the first row that needs it
        own = job.kind == "run" and row.hash() == job.e.hash()
        part = "student" if own else {"run": "detector"}.get(job.kind, job.kind)
        processes = gpus if job.kind == "run" else 1
        run = f"run {shlex.quote(row.student)} {shlex.quote(row.method)} {options}{changes(row, workspace, folder)}" + ("" if own else f" --part {part}")
        starter = f"torchrun --standalone --nproc-per-node {processes} -m c2dlib" if processes > 1 else "python -m c2dlib"
        needs = tuple(index[key] for key in job.needs if key in index)
        found = estimate(job.e, processes, gpu, images) if job.kind == "run" else {"hours": math.nan, "memory_gb": math.nan, "source": "unknown"}
        name = job.e.name if job.kind == "run" else f"{part} for {row.student}"
        made.append(Line(name, f"{starter} {run}", processes, needs, 1 + max((made[n].level for n in needs), default=-1),
                         found["hours"], found["memory_gb"], found["source"]))
    return made


def changes(e: Experiment, workspace: Workspace, folder: CocoFolder) -> str:
    """What an experiment has that its scale has not, as options: ``--seed 1 --set temperature=3.0``."""
    usual, said = experiment_for(workspace, folder, e.student, e.method, e.seed), []
    for name in (f.name for f in dataclasses.fields(e)):
        value = getattr(e, name)
        if value != getattr(usual, name):
            said.append(shlex.quote(f"{name}={list(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value}"))
    return (f" --seed {e.seed}" if e.seed else "") + (f" --set {' '.join(said)}" if said else "")


def text(made: list[Line], gpu: Gpu, gpus: int) -> str:
    """The plan as a table, its sum, and where the hours come from."""
    number = lambda value, form: "?" if math.isnan(value) else format(value, form)
    rows = [("", "job", "after", "GPUs", "hours", "GB/GPU >")]
    rows += [(str(i), line.name, ",".join(map(str, line.needs)) or "-", str(line.processes), number(line.hours, ".1f"),
              number(line.memory_gb, ".1f")) for i, line in enumerate(made)]
    widths = [max(len(row[k]) for row in rows) for k in range(6)]
    shown = ["  ".join(cell.ljust(w) if k < 3 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()
             for row in rows]
    known = [line for line in made if not math.isnan(line.hours)]
    shown += ["", (f"{len(made)} jobs; {sum(line.hours * line.processes for line in known):.0f} GPU hours in {len(known)} of them "
              f"whose cost is known, on {gpu.name}s, {gpus} to a run")]
    if any(line.source == "counted" for line in known):
        shown.append("hours are counted arithmetic over an assumed share of the data sheet's speed (c2dlib/cluster/cost.py), not "
                     "measured: make bench ARGS='--what throughput' DEVICE=cuda")
    shown += ["", *(f"[{i}] {line.command}" for i, line in enumerate(made))]
    return "\n".join(shown)


def makefile(made: list[Line]) -> str:
    """The plan as a makefile: ``make -k -j N -f FILE``, again after an interruption: a finished run returns at once."""
    targets = [f"job{i}" for i in range(len(made))]
    together = max((line.processes for line in made), default=1)
    head = ["# N jobs at once, a GPU each (a job takes a free one): make -k -j N -f THIS_FILE" if together == 1 else
            f"# one job at a time, on {together} GPUs of this machine: make -k -f THIS_FILE",
            "export PATH := $(CURDIR)/.venv/bin:$(PATH)", f"all: {' '.join(targets)}", f".PHONY: all {' '.join(targets)}", ""]
    for i, line in enumerate(made):
        needs = " ".join(targets[n] for n in line.needs)
        command = line.command.replace("$", "$$")
        head += [f"{targets[i]}: {needs}".rstrip(), f"\t{command}", ""]
    return "\n".join(head)


SBATCH = """#!/bin/sh
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={hours}:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output={folder}/%x-%a.log
# A job that is pre-empted is queued again by Slurm, one whose time ends by the trap; either goes on from its last checkpoint.
trap 'kill -TERM $task; scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"; wait' USR1
export PATH="$PWD/.venv/bin:$PATH" # where it was submitted
export C2D_MASTER="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 20000))"
srun sh -c "$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {commands})" & task=$!
wait $task
"""


def slurm(made: list[Line], folder: Path, gpus: int, gpus_per_node: int = 8, cpus_per_gpu: int = 16, hours: int = 24) -> list[Path]:
    """Write a job array per level of the plan, their commands, and ``submit.sh``, which chains them.

    Args:
        gpus: per run; more than ``gpus_per_node`` are several nodes, which meet by torchrun's rendezvous.
        hours: after which a job is queued again and goes on.

    Raises:
        ValueError: if the GPUs of a run do not fill whole nodes.
    """
    if gpus > gpus_per_node and gpus % gpus_per_node:
        raise ValueError(f"--gpus {gpus} must be a multiple of the {gpus_per_node} GPUs of a node, or fit into one")
    written, submit = [], ["#!/bin/sh", "# queue all; each array starts when the one before it ended well", "set -e"]
    arrays = sorted({(line.level, line.processes) for line in made})
    for number, (level, processes) in enumerate(arrays):
        mine = [line for line in made if (line.level, line.processes) == (level, processes)]
        nodes, here = max(1, processes // gpus_per_node), min(processes, gpus_per_node)
        meet = f"torchrun --nnodes {nodes} --nproc-per-node {here} --rdzv-backend c10d --rdzv-endpoint $C2D_MASTER -m c2dlib"
        start = f"torchrun --standalone --nproc-per-node {processes} -m c2dlib"
        commands, script = folder / f"{number}.commands", folder / f"{number}.sbatch"
        write_whole(commands, "".join(line.command.replace(start, meet if nodes > 1 else start) + "\n" for line in mine))
        write_whole(script, SBATCH.format(name=f"c2dlib-{number}", last=len(mine) - 1, nodes=nodes, gpus=here,
                                          cpus=here * cpus_per_gpu, hours=hours, folder=folder, commands=commands))
        earlier = [n for n, (before, _) in enumerate(arrays) if before < level]
        after = f" --dependency=afterok:{':'.join(f'$job{n}' for n in earlier)}" if earlier else ""
        submit.append(f"job{number}=$(sbatch --parsable{after} {script})")
        written += [commands, script]
    write_whole(folder / "submit.sh", "\n".join([*submit, "squeue --me", ""]))
    return [*written, folder / "submit.sh"]
