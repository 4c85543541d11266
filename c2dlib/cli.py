"""The commands beside ``reproduce``: one run, a table's plan, a data check, and a trained student's use."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from c2dlib import distributed
from c2dlib.config.experiment import SCALES, known, parse_override


def add_parsers(commands: argparse._SubParsersAction) -> None:
    """``run``, ``plan``, ``data``, ``evaluate``, ``detect``, ``export``; each sets ``call``."""
    def command(name: str, call, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text)
        made.set_defaults(call=call)
        return made

    def of_site(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--scale", default="mini", help=", ".join(sorted(p.stem for p in SCALES.glob("*.yaml"))))
        parser.add_argument("--data", default="", help="a COCO-format folder; empty: the embedded Badges")
        parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
        parser.add_argument("--set", nargs="*", default=[], metavar="setting=value", help="change an Experiment's field")

    one = command("run", run_one, "one row of a table; also in several processes, by torchrun or, on GPUs, accelerate launch")
    one.add_argument("student")
    one.add_argument("method")
    of_site(one)
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--part", default="student", choices=["student", "teacher", "pretrain", "detector"],
                     help="only what this run needs first: its classifier, its pre-training, the detector it imitates")
    printed = command("table", print_table, "a table of what is finished; nothing is trained")
    planned = command("plan", plan_table, "a table's runs as independent jobs, with hours and memory")
    for parser in (printed, planned):
        parser.add_argument("table")
        of_site(parser)
        parser.add_argument("--seeds", type=int, default=1)
        parser.add_argument("--students", nargs="*", default=[])
        parser.add_argument("--methods", nargs="*", default=[])
    planned.add_argument("--gpu", default="A100", help="what the hours are for: a name in c2dlib/cluster/cost.py")
    planned.add_argument("--gpus", type=int, default=1, help="GPUs per run")
    planned.add_argument("--gpus-per-node", type=int, default=8)
    planned.add_argument("--slurm", default="", metavar="FOLDER", help="write job arrays and submit.sh there")
    planned.add_argument("--make", default="", metavar="FILE", help="write a makefile there, for make -j")
    data = command("data", check_folder, "check a COCO copy or convert PASCAL VOC; says what to download")
    data.add_argument("--data", default="")
    measured = command("evaluate", evaluate_student, "COCO metrics of a student's checkpoint")
    shown = command("detect", detect_on_pictures, "a student's boxes on pictures")
    exported = command("export", export_student, "a student as ONNX, checked")
    for parser in (measured, shown, exported):
        parser.add_argument("checkpoint", help="student.safetensors, or the run's folder it lies in")
        parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    measured.add_argument("--data", default="", help="a COCO-format folder with the student's classes; empty: the embedded Badges")
    measured.add_argument("--scale", default="mini", help="of the embedded Badges")
    measured.add_argument("--split", default="", help="empty: test where there is one, else val")
    shown.add_argument("pictures", nargs="+")
    shown.add_argument("--out", default="detections", help="a folder")
    shown.add_argument("--threshold", type=float, default=0.5, help="lowest score that is shown")
    exported.add_argument("onnx", help="the file to write")
    exported.add_argument("--picture", default="", help="any picture of the kind it will see; empty: noise")


def run_one(options) -> int:
    """Train and evaluate one row, or one thing it needs; every process of it calls this."""
    from c2dlib.config.methods import imitation_in, needs_classifier
    from c2dlib.training.classifiers import classifier_teacher, initial_weights
    from c2dlib.training.run import detector_teacher, experiment_for, run
    from c2dlib.workspace import open_workspace

    device, overrides = distributed.join(options.device), dict(map(parse_override, options.set))
    if distributed.world() == 1 and device == "cuda":
        distributed.claim_gpu(Path("runs/locks"), wait=True)
    known(options.scale, [p.stem for p in SCALES.glob("*.yaml")], "SCALE")
    if not distributed.first():
        distributed.agreed(None)  # the first process has validated the data
    workspace, folder = open_workspace(options.scale, options.data, device=device, check_images=distributed.first())
    if distributed.first():
        distributed.agreed(None)
    e = experiment_for(workspace, folder, options.student, options.method, options.seed, **overrides)
    if len(set(hashes := distributed.gathered(e.hash()))) > 1:
        raise ValueError(f"{options.data}: the processes do not read the same data or settings (runs {', '.join(sorted(set(hashes)))})")
    progress = _Bar()
    if options.part == "teacher" and needs_classifier(e.method):
        print(f"top-1 {classifier_teacher(e, workspace, progress)[1]['top1']:.2f} %")
    elif options.part == "pretrain":
        initial_weights(e, workspace, progress)
    elif options.part == "detector" and imitation_in(e.method):
        return _told(run(detector_teacher(e), workspace, progress, with_weights=True), workspace)
    elif options.part == "student":
        return _told(run(e, workspace, progress), workspace)
    else:
        raise ValueError(f"{e.student} {e.method} needs no {options.part}")
    return 0


class _Bar:
    """Progress of the first process, with an estimate of the time left."""

    def __init__(self):
        self.what, self.bar = "", None

    def __call__(self, what: str, done: int, of: int) -> None:
        if not distributed.first():
            return
        if what != self.what:
            if self.bar:
                self.bar.close()
            self.what, self.bar = what, tqdm(total=of, desc=what, initial=done - 1, dynamic_ncols=True)
        self.bar.update(done - self.bar.n)
        if done == of:
            self.bar.close()


def _told(record, workspace) -> int:
    if distributed.first():
        if record.status == "done":
            print(" · ".join(f"{name} {value:.1f}" for name, value in record.metrics.items() if name in ("mAP", "AP50", "AP75")))
        else:
            print(f"{record.status}: {record.reason}")
        print(f"record: {workspace.results / 'records' / record.name}.json")
    return int(record.status != "done")


def _rows(options):
    """The rows of a table that are asked for, what is misspelt told before anything is read."""
    from c2dlib.reporting import work_list
    from c2dlib.workspace import open_workspace

    known(options.table, work_list.TABLES, "table")
    known(options.scale, [p.stem for p in SCALES.glob("*.yaml")], "SCALE")
    overrides = dict(map(parse_override, options.set))
    work_list.plan_rows(options.table, options.scale, options.seeds, options.students, options.methods, overrides,
                 Path(options.data).name if options.data else "badges")
    workspace, folder = open_workspace(options.scale, options.data, device=options.device)
    return workspace, folder, work_list.work_list(options.table, workspace, folder, options.seeds, options.students, options.methods, overrides)


def print_table(options) -> int:
    """Write and print a table from the records there are."""
    from c2dlib.reporting import tables

    workspace, folder, rows = _rows(options)
    frame = tables.write_table(options.table, rows, workspace, folder)
    print((workspace.results / f"{options.table}.md").read_text())
    print(f"{(frame.status == 'done').sum()} of {len(frame)} rows are done; written: {workspace.results / options.table}.csv, .md")
    return 0


def plan_table(options) -> int:
    """Print, or write for a scheduler, what of a table is still to be run."""
    import shlex

    from c2dlib.cluster import cost
    from c2dlib.cluster import jobs as grid
    from c2dlib.reporting.work_list import experiments

    gpu = cost.GPUS[known(options.gpu, cost.GPUS, "GPU")]
    if options.gpus < 1:
        raise ValueError(f"--gpus {options.gpus} must be at least 1")
    workspace, folder, rows = _rows(options)
    said = f"--scale {options.scale}" + (f" --data {shlex.quote(options.data)}" if options.data else "")
    made = grid.lines(experiments(rows), workspace, folder, said, gpu, options.gpus)
    if not made:
        print(f"{options.table}: every run is finished; make reproduce-{options.table} prints it")
        return 0
    if options.slurm:
        written = grid.slurm(made, Path(options.slurm), options.gpus, options.gpus_per_node)
        print("\n".join(map(str, written)) + f"\nsh {written[-1]}   queues {len(made)} jobs")
    if options.make:
        from c2dlib.files import write_whole

        write_whole(Path(options.make), grid.makefile(made))
        print(f"{options.make}\nmake -k -j N -f {options.make}   runs {len(made)} jobs, N at once")
    if not options.slurm and not options.make:
        print(grid.text(made, gpu, options.gpus))
    return 0


def check_folder(options) -> int:
    from c2dlib.data.published import check_data, downloads

    if not options.data:
        raise ValueError(f"which folder? make data DATA=/path/to/coco\n{downloads()}")
    print(check_data(options.data))
    return 0


def evaluate_student(options) -> int:
    from c2dlib.deployment.student import evaluate, load_student
    from c2dlib.workspace import open_workspace

    student = load_student(options.checkpoint)
    _, folder = open_workspace(options.scale, options.data)
    split = options.split or folder.eval_split
    metrics = evaluate(student, folder, split, options.device, _Bar())
    print(f"{student.experiment.name} on {folder.name} {split}, {len(folder.splits[split])} images, percent:")
    print("\n".join(f"  {name:<6} {'-' if value is None else format(value, '.1f'):>5}" for name, value in metrics.items()))
    return 0


def detect_on_pictures(options) -> int:
    from c2dlib.deployment.student import detect_on, load_student

    written = detect_on(load_student(options.checkpoint), options.pictures, Path(options.out), options.threshold, options.device)
    print(f"written: {written} and a picture with boxes for each beside it")
    return 0


def export_student(options) -> int:
    import torch

    from c2dlib.deployment.export import check_onnx, export_onnx
    from c2dlib.deployment.student import load_student, read_picture

    student = load_student(options.checkpoint)
    torch.manual_seed(0)
    picture = read_picture(options.picture) if options.picture else torch.rand(3, 480, 640)
    path = export_onnx(student.model, Path(options.onnx), picture)
    compared = check_onnx(path, student.model, [picture])
    print(f"written: {path}; onnxruntime finds what the detector finds ({compared} boxes compared)")
    print("labels: " + ", ".join(f"{i} {c.name}" for i, c in enumerate(student.categories, start=1)))
    return 0
