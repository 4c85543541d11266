"""A table as independent jobs for Slurm or ``make -j``: commands, order, estimated hours and memory."""

from __future__ import annotations

import dataclasses
import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from c2dlib import distributed
from c2dlib.cluster.cost import Gpu, estimate
from c2dlib.config.experiment import Experiment
from c2dlib.config.methods import imitation_in, needs_classifier
from c2dlib.data.coco import CocoFolder
from c2dlib.files import check_replaceable, write_whole
from c2dlib.records import RunRecord
from c2dlib.reporting.errors import known_errors
from c2dlib.training.classifiers import classifier_teacher, initial_weights
from c2dlib.training.finished import sweep_leftovers
from c2dlib.training.loop import NonFiniteLoss
from c2dlib.training.run import experiment_for, run, trained_detector_teacher
from c2dlib.training.schedule import Job, plan
from c2dlib.workspace import ProgressBar, Workspace, open_workspace

MARK = "# written by c2dlib plan"  # begins the first or second line of makefiles and scripts
# kind of a job that another one needs -> value of --part
PARTS = {"teacher": "teacher", "pretrain": "pretrain", "run": "detector"}


@dataclass(frozen=True)
class PlannedJob:
    """One job of a plan: a command to be run by itself."""

    name: str
    command: str
    processes: int
    needs: tuple[int, ...]  # jobs that must be finished before, by their number in the plan
    level: int  # length of the longest chain of jobs before it; jobs of one level are independent
    hours: float  # estimated; NaN: not known
    memory_gb: float  # per GPU, estimated; NaN: not known
    source: str  # of hours: measured, counted, unknown


def plan_jobs(
    experiments: list[Experiment],
    workspace: Workspace,
    folder: CocoFolder,
    options: str,
    gpu: Gpu,
    gpus: int = 1,
) -> list[PlannedJob]:
    """The unfinished jobs of a table, each after those it needs.

    Args:
        options: ``--scale`` and ``--data`` of every command, see ``place_options``.
        gpu: what hours and memory are estimated for.
        gpus: processes per run. Classifiers, which are small, are trained in one process.
    """
    jobs, images = plan(experiments, workspace), len(folder.splits["train"].with_boxes())
    numbers = {job.key: i for i, job in enumerate(jobs)}
    needed_by: dict[str, Experiment] = {}  # job -> the first row that needs it, by which its command names it
    for e in experiments:
        for job in plan([e], workspace):
            needed_by.setdefault(job.key, e)
    planned = []
    for job in jobs:
        needs = tuple(numbers[key] for key in job.needs if key in numbers)
        level = 1 + max((planned[n].level for n in needs), default=-1)
        planned.append(
            _planned_job(job, needed_by[job.key], needs, level, workspace, folder, options, gpu, gpus, images)
        )
    return planned


def _planned_job(
    job: Job,
    row: Experiment,
    needs: tuple[int, ...],
    level: int,
    workspace: Workspace,
    folder: CocoFolder,
    options: str,
    gpu: Gpu,
    gpus: int,
    images: int,
) -> PlannedJob:
    is_row, is_run = job.kind == "run" and row.hash() == job.e.hash(), job.kind == "run"
    part = "" if is_row else f" --part {PARTS[job.kind]}"
    processes = gpus if is_run else 1
    settings = setting_options(row, workspace, folder)
    arguments = f"run {shlex.quote(row.student)} {shlex.quote(row.method)} {options}{settings}{part}"
    name = job.e.name if is_run else f"{PARTS[job.kind]} for {row.student}"
    cost = (
        estimate(job.e, processes, gpu, images)
        if is_run
        else {"hours": math.nan, "memory_gb": math.nan, "source": "unknown"}
    )
    return PlannedJob(
        name,
        f"{_launcher(processes)} {arguments}",
        processes,
        needs,
        level,
        cost["hours"],
        cost["memory_gb"],
        cost["source"],
    )


def _launcher(processes: int) -> str:
    """The command that starts the processes of a job on one machine."""
    return (
        f"torchrun --standalone --nproc-per-node {processes} -m c2dlib"
        if processes > 1
        else "python -m c2dlib"
    )


def place_options(scale: str, data: str) -> str:
    """Scale and data as options of a command.

    Raises:
        ValueError: if there is a line break in ``data``, which would end the command.
    """
    if "\n" in data:
        raise ValueError(
            f"--data {data!r}: a job is one line; rename the folder so that it has no line break"
        )
    return f"--scale {scale}" + (f" --data {shlex.quote(data)}" if data else "")


def setting_options(e: Experiment, workspace: Workspace, folder: CocoFolder) -> str:
    """The settings that differ from the scale's, as options: ``--seed 1 --set temperature=3.0``."""
    at_scale = experiment_for(workspace, folder, e.student, e.method, e.seed)
    changed = {
        f.name: getattr(e, f.name)
        for f in dataclasses.fields(e)
        if getattr(e, f.name) != getattr(at_scale, f.name)
    }
    settings = [shlex.quote(f"{name}={_as_yaml(value)}") for name, value in changed.items()]
    return (f" --seed {e.seed}" if e.seed else "") + (f" --set {' '.join(settings)}" if settings else "")


def _as_yaml(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return list(value) if isinstance(value, tuple) else value


def plan_text(planned: list[PlannedJob], gpu: Gpu, gpus: int) -> str:
    """The plan as a table, with the sum of its hours and where they come from."""

    def number(value: float) -> str:
        return "?" if math.isnan(value) else f"{value:.1f}"

    rows = [("", "job", "after", "GPUs", "hours", "GB/GPU >")]
    rows += [
        (
            str(i),
            job.name,
            ",".join(map(str, job.needs)) or "-",
            str(job.processes),
            number(job.hours),
            number(job.memory_gb),
        )
        for i, job in enumerate(planned)
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(6)]
    lines = [
        "  ".join(
            cell.ljust(w) if k < 3 else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    estimated = [job for job in planned if not math.isnan(job.hours)]
    gpu_hours = sum(job.hours * job.processes for job in estimated)
    lines += [
        "",
        f"{len(planned)} jobs; {gpu_hours:.0f} GPU hours in {len(estimated)} of them whose cost is known, "
        f"on {gpu.name}s, {gpus} to a run",
    ]
    if any(job.source == "counted" for job in estimated):
        lines.append(
            "hours are counted arithmetic over an assumed share of the data sheet's speed "
            "(c2dlib/cluster/cost.py), not measured: make bench ARGS='--what throughput' DEVICE=cuda"
        )
    lines += ["", *(f"[{i}] {job.command}" for i, job in enumerate(planned))]
    return "\n".join(lines)


def write_plan(
    planned: list[PlannedJob], slurm_folder: str, make_file: str, gpus: int, gpus_per_node: int
) -> str:
    """Write a plan for Slurm, for make, or for both, where a path is not empty; return how to start it.

    Raises:
        ValueError: if the GPUs of a run do not fill whole nodes, or the folder's name has a line break.
        FileExistsError: if a file would be replaced that is of no plan; then nothing is written.
    """
    files: dict[Path, str] = {}
    lines: list[str] = []
    if slurm_folder:
        scripts = slurm_files(planned, Path(slurm_folder), gpus, gpus_per_node)
        lines += [*map(str, scripts), f"sh {shlex.quote(str([*scripts][-1]))}   queues {len(planned)} jobs"]
        files |= scripts
    if make_file:
        files[Path(make_file)] = makefile(planned)
        lines += [
            make_file,
            f"make -k -j N -f {shlex.quote(make_file)}   runs {len(planned)} jobs, N at once",
        ]
    for path in files:
        check_replaceable(path, _is_commands if path.suffix == ".commands" else _is_marked, "plan")
    for path, content in files.items():
        write_whole(path, content)
    return "\n".join(lines)


def _is_marked(content: bytes) -> bool:
    return any(line.startswith(MARK) for line in content.decode().splitlines()[:2])


def _is_commands(content: bytes) -> bool:
    """Whether a file holds the commands of a job array, a line each."""
    lines = content.decode().splitlines()
    return bool(lines) and all(" -m c2dlib run " in line for line in lines)


def makefile(planned: list[PlannedJob]) -> str:
    """The plan as a makefile for ``make -k -j N -f FILE``; finished runs return at once."""
    targets = [f"job{i}" for i in range(len(planned))]
    most_processes = max((job.processes for job in planned), default=1)
    lines = [
        f"{MARK}: N jobs at once, a GPU each (a job takes a free one): make -k -j N -f THIS_FILE"
        if most_processes == 1
        else f"{MARK}: one job at a time, on {most_processes} GPUs of this machine: make -k -f THIS_FILE",
        "export PATH := $(CURDIR)/.venv/bin:$(PATH)",
        f"all: {' '.join(targets)}",
        f".PHONY: all {' '.join(targets)}",
        "",
    ]
    for target, job in zip(targets, planned, strict=True):
        needs = " ".join(targets[n] for n in job.needs)
        command = job.command.replace("$", "$$")
        lines += [f"{target}: {needs}".rstrip(), f"\t{command}", ""]
    return "\n".join(lines)


SBATCH = """#!/bin/sh
{mark}
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
#SBATCH --output={output}
# Slurm queues a pre-empted job again, the trap one whose time ends; both continue from a checkpoint.
trap 'kill -TERM $task; scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"; wait' USR1
export PATH="$PWD/.venv/bin:$PATH" # where it was submitted
host="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export C2D_MASTER="$host:$((20000 + SLURM_JOB_ID % 20000))"
srun sh -c "$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {commands})" & task=$!
wait $task
"""


def slurm_files(
    planned: list[PlannedJob],
    folder: Path,
    gpus: int,
    gpus_per_node: int = 8,
    cpus_per_gpu: int = 16,
    hours: int = 24,
) -> dict[Path, str]:
    """A job array per level of the plan, their commands, and ``submit.sh``, which queues them in order.

    Args:
        gpus: per run. More than ``gpus_per_node`` are several nodes, which torchrun's rendezvous connects.
        hours: time limit after which a job is queued again and continues.

    Returns:
        The files with their contents; ``submit.sh`` is the last.

    Raises:
        ValueError: if the GPUs of a run do not fill whole nodes, or the folder's name has a line break.
    """
    if "\n" in str(folder):
        raise ValueError(f"--slurm {str(folder)!r}: choose a folder without a line break in its name")
    if gpus > gpus_per_node and gpus % gpus_per_node:
        raise ValueError(
            f"--gpus {gpus} must be a multiple of the {gpus_per_node} GPUs of a node, or fit into one"
        )
    files: dict[Path, str] = {}
    about = f"{MARK}: queues all; each array starts when the one before it ended well"
    submit = ["#!/bin/sh", about, "set -e"]
    arrays = sorted({(job.level, job.processes) for job in planned})
    for number, (level, processes) in enumerate(arrays):
        jobs = [job for job in planned if (job.level, job.processes) == (level, processes)]
        nodes, gpus_here = max(1, processes // gpus_per_node), min(processes, gpus_per_node)
        commands, script = folder / f"{number}.commands", folder / f"{number}.sbatch"
        files[commands] = "".join(_on_nodes(job, nodes, gpus_here) + "\n" for job in jobs)
        files[script] = SBATCH.format(
            mark=MARK,
            name=f"c2dlib-{number}",
            last=len(jobs) - 1,
            nodes=nodes,
            gpus=gpus_here,
            cpus=gpus_here * cpus_per_gpu,
            hours=hours,
            output=_sbatch_quoted(folder),
            commands=shlex.quote(str(commands)),
        )
        earlier = [n for n, (before, _) in enumerate(arrays) if before < level]
        after = f" --dependency=afterok:{':'.join(f'$job{n}' for n in earlier)}" if earlier else ""
        submit.append(f"job{number}=$(sbatch --parsable{after} {shlex.quote(str(script))})")
    return files | {folder / "submit.sh": "\n".join([*submit, "squeue --me", ""])}


def _sbatch_quoted(folder: Path) -> str:
    """The pattern of a folder's logs, as the value of an option in a ``#SBATCH`` line."""
    path = str(folder).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{path}/%x-%a.log"'


def _on_nodes(job: PlannedJob, nodes: int, gpus_per_node: int) -> str:
    """The command of a job, started on each of its nodes."""
    if nodes == 1:
        return job.command
    launcher = (
        f"torchrun --nnodes {nodes} --nproc-per-node {gpus_per_node} "
        "--rdzv-backend c10d --rdzv-endpoint $C2D_MASTER -m c2dlib"
    )
    return job.command.replace(_launcher(job.processes), launcher)


def run_job(
    student: str,
    method: str,
    scale: str,
    data: str = "",
    device: str = "auto",
    seed: int = 0,
    part: str = "student",
    overrides: dict | None = None,
) -> int:
    """Run one job: a row of a table, or one thing it needs. Every process of the job calls this.

    Args:
        data: a COCO-format folder; empty: the embedded Badges.
        part: ``student``, ``teacher``, ``pretrain`` or ``detector``.

    Returns:
        The exit code: 0 if the run is done, 1 if it failed.

    Raises:
        ValueError: if the method has no such part, or the processes read different data or settings.
    """
    device = distributed.join(device)
    if distributed.world() == 1 and device == "cuda":
        distributed.claim_gpu(Path("runs/locks"), wait=True)
    workspace, folder = _open_once_validated(scale, data, device)
    e = experiment_for(workspace, folder, student, method, seed, **(overrides or {}))
    hashes = set(distributed.gathered(e.hash()))
    if len(hashes) > 1:
        raise ValueError(
            f"{data}: the processes do not read the same data or settings (runs {', '.join(sorted(hashes))})"
        )
    if distributed.first():
        sweep_leftovers(workspace)
    progress = ProgressBar()
    if part == "student":
        record = run(e, workspace, progress)
        if distributed.first():
            known_errors(e, workspace)  # kept beside the record: they outlive the detections in runs/
        return _print_record(record, workspace)
    if part == "detector" and imitation_in(e.method):
        teacher = distributed.agreed(trained_detector_teacher(e, workspace))
        return _print_record(run(teacher, workspace, progress, with_weights=True), workspace)
    try:
        if part == "teacher" and needs_classifier(e.method):
            print(f"top-1 {classifier_teacher(e, workspace, progress)[1]['top1']:.2f} %")
            return 0
        if part == "pretrain":
            initial_weights(e, workspace, progress)
            return 0
    except NonFiniteLoss as error:
        print(f"failed: {part} of {e.student}, {part}_lr={getattr(e, f'{part}_lr'):g}: {error}")
        return 1
    raise ValueError(f"{e.student} {e.method} needs no {part}")


def _open_once_validated(scale: str, data: str, device: str) -> tuple[Workspace, CocoFolder]:
    """The workspace, in every process; the first one validates the data, the others wait for it."""
    with distributed.first_process_first():
        return open_workspace(scale, data, device=device, check_images=distributed.first())


def _print_record(record: RunRecord, workspace: Workspace) -> int:
    """Print the result of a run and the file of its record; return the exit code."""
    if distributed.first():
        if record.status == "done":
            print(
                " · ".join(
                    f"{name} {value:.1f}"
                    for name, value in record.metrics.items()
                    if name in ("mAP", "AP50", "AP75")
                )
            )
        else:
            print(f"{record.status}: {record.reason}")
        print(f"record: {workspace.results / 'records' / record.name}.json")
    return int(record.status != "done")
