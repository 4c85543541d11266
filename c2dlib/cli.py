"""Every command of ``python -m c2dlib``.

tyro makes the options and their help from the functions' signatures and docstrings. A command reads its
options, calls one function of the library and prints. Modules that need torch are imported inside the
commands: help and the answer to a misspelt scale do not wait for torch.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from c2dlib.config.experiment import (
    check_jobs,
    check_scale,
    known,
    parse_overrides,
    preset_names,
    preset_student,
    scale_names,
)
from c2dlib.config.weights import WeightsError
from c2dlib.records import PUBLISHED, RecordError, interpreter

Scale = Annotated[str, arg(help=f"One of {', '.join(scale_names())}.", metavar="NAME")]
Data = Annotated[
    str,
    arg(
        help="A folder (COCO's layout, Roboflow's COCO export, YOLO), or a YAML file that names an "
        "annotation file and an image folder per split; empty: the embedded Badges.",
        metavar="FOLDER",
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], arg(help="auto: a GPU if there is one.")]
Seeds = Annotated[int, arg(help="Runs per row, with the seeds 0, 1, ...")]
Students = Annotated[tuple[str, ...], arg(help="Only these students.", metavar="NAME ...")]
Methods = Annotated[tuple[str, ...], arg(help="Only these methods.", metavar="NAME ...")]
Settings = Annotated[
    tuple[str, ...], arg(name="set", help="Settings of Experiment to change.", metavar="SETTING=VALUE ...")
]
Checkpoint = Annotated[
    Positional[str],
    arg(help="A student.safetensors, or the folder of the run that wrote it.", metavar="CHECKPOINT"),
]
Published = Annotated[bool, arg(help="The published results, not those of this machine.")]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors that a person can mend are printed in one line without a traceback.

    Returns:
        The exit code: 0 success, 1 a run failed, 2 wrong options or data, 130 interrupted, 141 nobody reads
        the output any more, as after ``| head``.
    """
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    try:
        try:
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="python -m c2dlib",
                args=arguments,
                description="Classifier-to-detector distillation, reproduced.",
            )
        finally:
            sys.stdout.flush()  # here a closed pipe can be handled, at the interpreter's exit it cannot
    except BrokenPipeError as error:
        if not _output_is_closed():
            return _print_error(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (RecordError, WeightsError, ValueError, OSError) as error:
        return _print_error(error)
    except KeyboardInterrupt:
        words = sys.argv[1:] if arguments is None else arguments
        print(f"\nInterrupted. To go on: {_same_command(words)}", file=sys.stderr)
        return 130
    except Exception as error:
        from c2dlib.data.validation import DataError

        if not isinstance(error, DataError):
            raise
        return _print_error(error)


def _print_error(error: Exception | str) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _output_is_closed() -> bool:
    """Whether the pipe that broke is that of stdout, which then takes no line any more."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def _same_command(words: list[str]) -> str:
    """The command of this process as it was typed: that of make, if the Makefile calls this, or its own."""
    if called_by := os.environ.get("C2D_MAKE"):
        return shlex.join(shlex.split(called_by))
    return f"{interpreter()} -m c2dlib {shlex.join(words)}"


def _loading(what: str) -> None:
    """A first line at once: PyTorch takes seconds to load."""
    print(f"{what} (loading PyTorch)", flush=True)


def reproduce(
    name: Annotated[Positional[str], arg(metavar="NAME")] = "table2",
    scale: Scale = "mini",
    data: Data = "",
    seeds: Seeds = 1,
    jobs: int = 0,
    device: Device = "auto",
    students: Students = (),
    methods: Methods = (),
    settings: Settings = (),
) -> int:
    """Train what a table needs, print paper, published and this machine's numbers, execute the notebook.

    Args:
        name: A table, figure or notebook; `python -m c2dlib names` lists them.
        jobs: Runs at the same time; 0: one per core, or one per GPU.
    """
    check_scale(scale, presets=name == "your_data")
    check_jobs(jobs)
    overrides = parse_overrides(settings)
    from c2dlib.reporting.preview import preview
    from c2dlib.reporting.request import Request
    from c2dlib.reporting.work_list import TABLES

    request = Request(name, scale, data, seeds, jobs, device, students, methods, overrides)
    if name in TABLES or name == "figure3":
        print(preview(request), flush=True)
    else:
        _loading(f"{name}, scale {scale}")
    from c2dlib.reporting import reproduce as library

    return 0 if library.reproduce(request) else 1


def table(
    name: Annotated[Positional[str], arg(metavar="TABLE")],
    scale: Scale = "mini",
    data: Data = "",
    seeds: Seeds = 1,
    device: Device = "auto",
    students: Students = (),
    methods: Methods = (),
    settings: Settings = (),
    published: Published = False,
) -> int:
    """Write and print a table from the finished runs; nothing is trained.

    Args:
        name: A table; `python -m c2dlib names` lists them.
    """
    check_scale(scale)
    overrides = parse_overrides(settings)
    _loading(f"{name}, scale {scale}")
    from c2dlib.reporting.reproduce import write_and_print_table
    from c2dlib.reporting.request import Request

    write_and_print_table(
        Request(name, scale, data, seeds, 0, device, students, methods, overrides, published)
    )
    return 0


def show(
    name: Annotated[Positional[str], arg(metavar="NAME")] = "table2", scale: Scale = "mini", data: Data = ""
) -> int:
    """Print a published table at once; nothing is trained.

    Args:
        name: A table, figure or notebook; `python -m c2dlib names` lists them.
    """
    check_scale(scale)
    from c2dlib.reporting.console import show as published

    print(published(name, scale, data))
    return 0


def publish(scale: Scale = "mini", data: Data = "") -> int:
    """Copy this machine's finished records, complete tables, notebooks and figures into results/published/.

    A published table with more seeds or rows is not replaced.
    """
    check_scale(scale)
    _loading(f"publishing the results of scale {scale}")
    from c2dlib.reporting.publish import publish as library

    workspace, folder = _open(scale, data, published=False)
    print("\n".join(library(workspace, folder)))
    return 0


def plan(
    name: Annotated[Positional[str], arg(metavar="TABLE")],
    scale: Scale = "mini",
    data: Data = "",
    seeds: Seeds = 1,
    students: Students = (),
    methods: Methods = (),
    settings: Settings = (),
    gpu: str = "A100",
    gpus: int = 1,
    gpus_per_node: int = 8,
    slurm: Annotated[str, arg(metavar="FOLDER")] = "",
    make: Annotated[str, arg(metavar="FILE")] = "",
) -> int:
    """Print a table's unfinished runs as independent jobs with estimated hours and memory.

    They can also be written as files for a scheduler.

    Args:
        name: A table; `python -m c2dlib names` lists them.
        gpu: The GPU that the hours are estimated for, by its name in c2dlib/cluster/cost.py.
        gpus: GPUs per run.
        gpus_per_node: GPUs of one machine of the cluster.
        slurm: Write job arrays and submit.sh into this folder.
        make: Write a makefile there, for make -j.
    """
    check_scale(scale)
    overrides = parse_overrides(settings)
    _loading(f"plan of {name}, scale {scale}")
    from c2dlib.cluster import cost, jobs
    from c2dlib.reporting.reproduce import open_table
    from c2dlib.reporting.request import Request
    from c2dlib.reporting.work_list import experiments

    known(gpu, cost.GPUS, "GPU")
    for option, value in (("--gpus", gpus), ("--gpus-per-node", gpus_per_node)):
        if value < 1:
            raise ValueError(f"{option} {value} must be at least 1")
    request = Request(name, scale, data, seeds, 0, "auto", students, methods, overrides)
    workspace, folder, rows = open_table(request)
    planned = jobs.plan_jobs(
        experiments(rows), workspace, folder, jobs.place_options(scale, data), cost.GPUS[gpu], gpus
    )
    if not planned:
        print(f"{name}: every run is finished; make reproduce-{name} prints it")
    elif slurm or make:
        print(jobs.write_plan(planned, slurm, make, gpus, gpus_per_node))
    else:
        print(jobs.plan_text(planned, cost.GPUS[gpu], gpus))
    return 0


def run(
    student: Positional[str],
    method: Positional[str],
    scale: Scale = "mini",
    data: Data = "",
    device: Device = "auto",
    settings: Settings = (),
    seed: int = 0,
    part: Literal["student", "teacher", "pretrain", "detector"] = "student",
) -> int:
    """Train and evaluate one row of a table; torchrun or accelerate launch run it in several processes.

    Args:
        student: The detector to train.
        method: The losses it is trained with.
        seed: Random seed.
        part: student: the row itself; else only what it needs first: its classification teacher, the
            pre-training of its backbone, or the detector it imitates.
    """
    check_scale(scale)
    overrides = parse_overrides(settings)
    if os.environ.get("RANK", "0") == "0":
        _loading(f"{student} {method}, seed {seed}, scale {scale}")
    from c2dlib.cluster.jobs import run_job

    return run_job(student, method, scale, data, device, seed, part, overrides)


def data(
    folder: Annotated[
        str,
        arg(name="data", help="A COCO or PASCAL VOC folder; with --name, the one to make.", metavar="FOLDER"),
    ] = "",
    name: Annotated[str, arg(help="A data set to fetch: groceries.", metavar="NAME")] = "",
) -> int:
    """Check a copy of COCO, convert PASCAL VOC, or fetch a public data set.

    Without options, say what to download from where.
    """
    _loading(" ".join(filter(None, ["data", name, folder])))
    from c2dlib.data.groceries import make_groceries
    from c2dlib.data.published import check_data, downloads

    if name:
        known(name, ["groceries"], "data set")
        if not folder:
            raise ValueError(f"into which folder? make data NAME={name} DATA={name}")
        print(make_groceries(folder))
        return 0
    if not folder:
        raise ValueError(f"which folder? make data DATA=/path/to/coco\n{downloads()}")
    print(check_data(folder))
    return 0


def bench(
    device: Literal["cpu", "cuda"] = "cpu",
    repeats: int = 3,
    what: Literal["ratios", "counts", "throughput", "agreement"] = "ratios",
    students: Students = (),
) -> int:
    """Measure what a training step and the paper's losses cost.

    Args:
        device: Where to measure.
        repeats: How often each time is measured.
        what: ratios: SSD300's step with and without the losses, against torchvision's; counts: arithmetic and
            memory of every student's step at the paper's scale; throughput: images per second there;
            agreement: the first step on this device against the CPU's.
        students: Only these students (counts, throughput).
    """
    _loading(f"bench: {what}")
    from c2dlib.cluster import bench as library
    from c2dlib.workspace import chosen_device

    chosen_device(device)
    if what == "ratios":
        return library.bench(device, repeats)
    if what == "agreement":
        return library.agreement(device)
    measure = library.counts if what == "counts" else library.throughput
    return measure(device, list(students), repeats)


def claims(scale: Scale = "mini", data: Data = "", published: Published = False) -> int:
    """Judge the primary claims by the finished runs, list all other comparisons, draw the forest plot."""
    check_scale(scale)
    _loading(f"claims, scale {scale}")
    from c2dlib import figures
    from c2dlib.reporting.claims import write_claims
    from c2dlib.reporting.ledger import FIGURE

    workspace, folder = _open(scale, data, published)
    if found := write_claims(workspace, folder):
        figures.save(figures.claims_forest(found.parts, found.students), workspace.results / FIGURE)
    print((workspace.results / "claims.md").read_text(encoding="utf-8"))
    return 0


def _open(scale: str, data: str, published: bool):
    """The workspace of this machine's results, or of the published ones."""
    from c2dlib.workspace import open_workspace

    return open_workspace(scale, data, PUBLISHED if published else Path("results"))


def html(
    scale: Scale = "mini",
    data: Data = "",
    published: Annotated[
        bool, arg(help="All published results and the project's texts, whatever scale and data.")
    ] = False,
) -> int:
    """Write the executed notebooks as pages for a browser."""
    check_scale(scale)
    _loading("pages of all published results" if published else f"pages, scale {scale}")
    from c2dlib.reporting.site import published_site, results_site

    index = published_site() if published else results_site(_open(scale, data, published)[0])
    print(f"written: {index}")
    return 0


def execute(
    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME ...")],
    scale: Scale = "mini",
    data: Data = "",
) -> int:
    """Execute notebooks on the published records and weights, and keep the copies there; nothing is trained.

    Args:
        names: Tables, figures or notebooks; `python -m c2dlib names` lists them.
    """
    check_scale(scale)
    _loading(f"published notebooks, scale {scale}")
    from c2dlib.reporting.notebooks import execute_published

    for name in names:
        print(f"written: {execute_published(name, scale, data)}", flush=True)
    return 0


def readme() -> int:
    """Write the tables of README.md and docs/ from results/published/, and the diagram of the method."""
    _loading("tables of README and docs")
    from c2dlib import figures
    from c2dlib.records import ROOT
    from c2dlib.reporting.readme import pages, update_tables

    for page in pages():
        update_tables(page)
    figures.write_diagram(ROOT / "docs" / "method.svg")
    return 0


def names() -> int:
    """List the tables, notebooks, scales, students and methods."""
    from c2dlib.config.methods import METHODS
    from c2dlib.config.students import ARCHITECTURES
    from c2dlib.reporting.notebooks import PIECES
    from c2dlib.reporting.work_list import TABLES

    for kind, values in {
        "tables": TABLES,
        "figures and notebooks": PIECES,
        "scales": scale_names(),
        "presets of train": preset_names(),
        "students": ARCHITECTURES,
        "methods": METHODS,
    }.items():
        print(f"{kind}: {' '.join(values)}")
    return 0


def train(
    data: Data = "",
    preset: Annotated[
        str,
        arg(
            help="laptop: a compact detector from ImageNet weights, on a CPU; begin with it if these can be "
            "downloaded. quick: a slim student on small images, from random weights, to see that everything "
            "runs. good: the paper's students, for a GPU.",
            metavar="NAME",
        ),
    ] = "quick",
    student: Annotated[str, arg(help="The detector, see `names`; empty: the preset's.", metavar="NAME")] = "",
    method: Annotated[str, arg(help="How it is trained: C2D, baseline, KDcls, ...", metavar="NAME")] = "C2D",
    compare: Annotated[bool, arg(help="Also train the baseline, and print the gain.")] = False,
    seeds: Seeds = 1,
    jobs: Annotated[int, arg(help="Runs at the same time, if several; 0: one per core or GPU.")] = 0,
    device: Device = "auto",
    settings: Settings = (),
) -> int:
    """Train a detector on your own images, with a classifier of their crops as teacher.

    The best weights on val are kept. Interrupt at any time: the same command goes on.

    $ python -m c2dlib train --data photos
    $ python -m c2dlib train --data photos/data.yaml --preset laptop --compare --seeds 3
    $ python -m c2dlib train --data photos --preset good --student FasterRCNN-R50 --set batch_size=8
    """
    own = preset_student(preset)  # a misspelt preset is answered before torch is loaded
    student = student or own
    check_jobs(jobs)
    overrides = parse_overrides(settings)
    _loading(f"{student} {method}, preset {preset}")
    from c2dlib.deployment.train import train as library

    finished = library(data, preset, student, method, compare, seeds, jobs, device, overrides)
    return 0 if finished else 1


def runs(
    data: Annotated[str, arg(help="Only runs on data of this name; empty: all.", metavar="NAME")] = "",
) -> int:
    """List the runs on this machine: data, student, method, mAP, how far they are, and where they lie.

    $ python -m c2dlib runs
    $ python -m c2dlib runs --data photos
    """
    from c2dlib.deployment.runs import list_runs, runs_text

    results, folder = Path("results"), Path("runs")
    print(runs_text(list_runs(results, folder, data), results, folder))
    return 0


def evaluate(
    checkpoint: Checkpoint,
    device: Device = "auto",
    data: Data = "",
    scale: Annotated[
        str, arg(help="Of the embedded Badges, if --data is empty; empty: as in the run's path.")
    ] = "",
    split: str = "",
    out: Annotated[str, arg(metavar="FOLDER")] = "",
) -> int:
    """Compute the metrics of a student: COCO's, and those of each class; draw precision over recall.

    $ python -m c2dlib evaluate runs/photos-quick/RUN --data photos
    $ python -m c2dlib evaluate runs/photos-quick/RUN --data photos --split val --out report

    Args:
        split: train, val or test; empty: test where there is one, else val.
        out: Where the table and the picture are written; empty: beside the checkpoint.
    """
    if scale:
        check_scale(scale)
    _loading(checkpoint)
    from c2dlib.deployment.report import evaluate as library

    print(library(checkpoint, data, scale, split, out, device))
    return 0


def detect(
    checkpoint: Checkpoint,
    pictures: Annotated[Positional[tuple[str, ...]], arg(metavar="PICTURE ...")],
    device: Device = "auto",
    out: Annotated[str, arg(metavar="FOLDER")] = "detections",
    threshold: Annotated[float | None, arg(metavar="SCORE")] = None,
) -> int:
    """Detect objects on pictures.

    $ python -m c2dlib detect runs/photos-quick/RUN photo.jpg
    $ python -m c2dlib detect runs/photos-quick/RUN photos 'more/*.png' --threshold 0.3 --out boxes

    Args:
        pictures: Image files, folders (with all pictures below them), patterns in quotes.
        out: Where the detections and a picture with boxes for each are written; no other file is replaced.
        threshold: Lowest score of a box that is shown; default: the checkpoint's, chosen on val, else 0.5.
    """
    if not pictures:
        raise ValueError("which pictures? detect CHECKPOINT PICTURE ...")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"--threshold {threshold:g}: a score is between 0 and 1")
    _loading(checkpoint)
    from c2dlib.deployment.pictures import choose_threshold, detect_on, summary
    from c2dlib.deployment.student import load_student
    from c2dlib.workspace import ProgressBar, chosen_device

    student = load_student(checkpoint)
    lowest, why = choose_threshold(student, threshold)
    progress = ProgressBar() if len(pictures) > 1 or Path(pictures[0]).is_dir() else lambda *_: None
    found = detect_on(student, list(pictures), Path(out), lowest, chosen_device(device), progress)
    print(f"threshold {lowest:.2f} ({why})\n{summary(found, lowest)}")
    print(f"written: {Path(out) / 'detections.json'} and a picture with boxes for each beside it")
    return 0


def export(
    checkpoint: Checkpoint, onnx: Annotated[Positional[str], arg(metavar="FILE")], picture: str = ""
) -> int:
    """Export a student as ONNX and check that onnxruntime detects the same boxes.

    Class names and threshold are in the file's metadata. A model that fails the check is not written.

    $ python -m c2dlib export runs/photos-quick/RUN student.onnx --picture photo.jpg

    Args:
        onnx: The file to write; its name ends in .onnx. Only an earlier export is replaced.
        picture: A picture of the kind the student will see, for the check; empty: noise, in which it may
            detect nothing to compare.
    """
    if Path(onnx).suffix.lower() != ".onnx":
        raise ValueError(f"{onnx}: the name of the file to write must end in .onnx")
    _loading(checkpoint)
    import torch

    from c2dlib.deployment.export import COMPARED_ABOVE, ExportError, export_checked
    from c2dlib.deployment.student import load_student, read_picture

    student = load_student(checkpoint)
    torch.manual_seed(0)
    example = read_picture(picture) if picture else torch.rand(3, 480, 640)
    names = [category.name for category in student.categories]
    try:
        compared = export_checked(student.model, Path(onnx), example, names, student.threshold)
    except ExportError as error:
        return _print_error(
            f"{onnx}: {error}; nothing was written. Try the versions of torch, onnx and onnxruntime that "
            "requirements.lock names."
        )
    if compared:
        print(f"written: {onnx}; onnxruntime detects the same boxes as torch ({compared} boxes compared)")
    else:
        print(
            f"written: {onnx}; not checked: in {picture or 'noise'} there is no detection with a score above "
            f"{COMPARED_ABOVE} to compare. Name a picture with objects: --picture FILE"
        )
    threshold = f"threshold {student.threshold.score:.2f}" if student.threshold else "no threshold"
    print(f"in its metadata: {threshold}; " + ", ".join(f"{i} {n}" for i, n in enumerate(names, start=1)))
    return 0


COMMANDS = {
    "reproduce": reproduce,
    "show": show,
    "table": table,
    "publish": publish,
    "plan": plan,
    "run": run,
    "data": data,
    "claims": claims,
    "html": html,
    "execute": execute,
    "readme": readme,
    "names": names,
    "bench": bench,
    "train": train,
    "runs": runs,
    "evaluate": evaluate,
    "detect": detect,
    "export": export,
}
