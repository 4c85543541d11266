"""What a run at the paper's scale costs.

Arithmetic and memory are counted, which any machine can do; time is measured, or follows from an assumed GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from c2dlib.config.experiment import Experiment, experiment
from c2dlib.config.methods import imitation_in, needs_classifier
from c2dlib.config.students import ARCHITECTURES, STUDENTS
from c2dlib.detectors.build import build_student
from c2dlib.distillation.build import build_distillers, build_imitation
from c2dlib.files import parse_json
from c2dlib.records import ROOT
from c2dlib.teacher.classifier import Teacher, build_classifier
from c2dlib.training.run import detector_teacher
from c2dlib.training.step import TrainingStep

COCO_IMAGES = 117_266  # of train2017, with a box to train on
SHAPE, OBJECTS, CLASSES = (
    (480, 640),
    7,
    80,
)  # a typical image of COCO: pixels, objects (7.3 on average), classes
PAPER, BENCH = ROOT / "results" / "paper", ROOT / "results" / "bench"


@dataclass(frozen=True)
class Gpu:
    """The data sheet of a GPU."""

    name: str
    tflops: float  # dense bf16 arithmetic, TFLOP/s
    memory: float  # GB
    watts: float
    bandwidth: float  # of all-reduce, GB/s


GPUS = {
    g.name: g
    for g in (
        Gpu("A100", 312, 80, 400, 200),
        Gpu("H100", 989, 80, 700, 300),
        Gpu("H200", 989, 141, 700, 300),
        Gpu("RTX 4090", 165, 24, 450, 10),
    )
}
# The assumed share of that arithmetic which training a detector reaches. It may be half or twice that;
# `make bench` measures it.
UTILISATION = 0.1


def scene(count: int, device: str = "cpu", seed: int = 0) -> tuple[list[Tensor], list[dict]]:
    """Random images of COCO's usual size, seven boxes each."""
    generator, (height, width) = torch.Generator().manual_seed(seed), SHAPE
    images, targets = [], []
    for _ in range(count):
        size = torch.tensor([width, height])
        centre = size * (0.2 + 0.6 * torch.rand(OBJECTS, 2, generator=generator))
        side = size * (0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=generator))
        boxes = torch.cat([(centre - side / 2).clamp(min=0), torch.minimum(centre + side / 2, size)], dim=1)
        images.append(torch.rand(3, height, width, generator=generator).to(device))
        targets.append(
            {
                "boxes": boxes.to(device),
                "labels": torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator).to(device),
            }
        )
    return images, targets


def random_step(e: Experiment, device: str = "cpu") -> tuple[TrainingStep, Teacher | None]:
    """An experiment's training step with random weights, and its classification teacher, if it has one."""
    torch.manual_seed(0)
    student = build_student(e, CLASSES, "none")
    teacher, imitation = None, None
    if needs_classifier(e.method):
        classifier = build_classifier(e.teacher, CLASSES, e.teacher_size, e.teacher_width)
        dtype = getattr(torch, e.teacher_dtype)
        teacher = Teacher(classifier, CLASSES, e.teacher_size, dtype).to(device)
    if imitation_in(e.method):
        detector = build_student(detector_teacher(e), CLASSES, "none").model.to(device)
        imitation = build_imitation(e, student, detector)
    even = torch.zeros(
        CLASSES, CLASSES
    )  # for the controls with the same probabilities for all objects of a class
    class_logits = {"KDcls-smooth": even, "KDcls-mean": even}
    bank = torch.zeros(CLASSES, CLASSES), torch.arange(CLASSES)
    step = TrainingStep(student, build_distillers(e, teacher, imitation, class_logits, bank))
    return step.to(device=device).to(memory_format=torch.channels_last).train(), teacher


def count(e: Experiment) -> dict:
    """One image's training step on the CPU, counted.

    Returns:
        gflops: 10^9 floating point operations, forward and backward, of convolutions and matrix products (a
            multiply-add is two);
        activations_mb: what the forward pass keeps for the backward pass, in fp32;
        parameters, trained: numbers in the student, and those of them that are trained.
    """
    step, _ = random_step(e)
    images, targets = scene(1)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            total = reduce(torch.add, step(images, targets).values())
        total.backward()
    parameters = list(step.student.parameters())
    weights = {p.untyped_storage().data_ptr() for p in parameters}
    return {
        "student": e.student,
        "method": e.method,
        "image_size": e.image_size,
        "gflops": round(counter.get_total_flops() / 1e9, 1),
        "activations_mb": round(sum(n for p, n in kept.items() if p not in weights) / 1e6, 1),
        "parameters": sum(p.numel() for p in parameters),
        "trained": sum(p.numel() for p in parameters if p.requires_grad),
    }


def read_bench(name: str, folder: Path = BENCH) -> list[dict]:
    """The rows of ``results/bench/<name>.json``; none where it was not made.

    Raises:
        ValueError: if it is damaged; the message names it.
    """
    path = folder / f"{name}.json"
    try:
        return parse_json(path.read_bytes())["rows"] if path.exists() else []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: damaged ({error!r:.60}); make bench ARGS='--what {name}' writes it anew"
        ) from error


def counted(e: Experiment, folder: Path = BENCH) -> dict | None:
    """The committed count of an experiment's step: of its own method, or of the most expensive one that is
    known; None where images of this size were not counted.

    For a detector that is imitated it is the count of its student.
    """
    student = next((s for s in STUDENTS if e.student in (s, ARCHITECTURES[s].detector_teacher)), e.student)
    rows = [
        row
        for row in read_bench("counts", folder)
        if row["student"] == student and row["image_size"] == e.image_size
    ]
    same_method = [row for row in rows if row["method"] == e.method]
    return max(same_method or rows, key=lambda row: row["gflops"], default=None)


def images_seen(e: Experiment, images: int = COCO_IMAGES) -> float:
    return (e.steps or max(1, round(e.epochs * images / e.batch_size))) * e.batch_size


def estimate(
    e: Experiment,
    gpus: int,
    gpu: Gpu,
    images: int = COCO_IMAGES,
    utilisation: float = UTILISATION,
    folder: Path = BENCH,
) -> dict:
    """Hours, energy and memory of a run, from images/s measured on this kind of GPU, or else from the count.

    Memory is per GPU and a lower bound: activations of its share of the batch (bf16: half of what was
    counted), weights, gradients, momentum. The workspace of convolutions and unused memory of the allocator
    can double it.

    Returns:
        hours, kWh (GPUs alone), memory_gb and ``source``: measured, counted or unknown; NaN where nothing is
        known.
    """
    row, parts = counted(e, folder), gpus * e.accumulate
    measured = [
        r
        for r in read_bench("throughput", folder)
        if gpu.name in r["device"]
        and r["student"] == e.student
        and r["method"] == e.method
        and r["precision"] == e.precision
        and r["image_size"] == e.image_size
    ]
    if measured:
        per_second, source = measured[0]["images_per_second"], "measured"
    elif row:
        per_second, source = gpu.tflops * 1e3 * utilisation / row["gflops"], "counted"
    else:
        per_second, source = float("nan"), "unknown"
    hours = images_seen(e, images) / (per_second * gpus) / 3600
    megabytes = (
        -(-e.batch_size // parts) * row["activations_mb"] * (0.5 if e.precision != "no" else 1)
        + row["trained"] * 12e-6
        if row
        else float("nan")
    )
    return {
        "hours": hours,
        "kWh": hours * gpus * gpu.watts / 1000,
        "memory_gb": megabytes / 1000,
        "source": source,
        "images_per_second": per_second,
    }


def limits(
    e: Experiment,
    gpu: Gpu,
    decoded_per_second: float,
    cores: int = 16,
    utilisation: float = UTILISATION,
    folder: Path = BENCH,
) -> dict:
    """The number of GPUs from which on something other than the student's arithmetic limits a run.

    Args:
        decoded_per_second: images one core reads and augments.
        cores: per GPU.

    Returns:
        loader: images/s that the cores of a GPU deliver, over images/s of the GPU; below 1 the loader is the
            limit.
        exchange: the number of GPUs at which exchanging gradients takes as long as the step, at this batch
            size.
        teacher: share of the step's arithmetic that is the distillation's.
    """
    rate = estimate(e, 1, gpu, utilisation=utilisation, folder=folder)["images_per_second"]
    row, plain = counted(e, folder), counted(e.replace(method="baseline"), folder)
    return {
        "loader": cores * decoded_per_second / rate,
        "exchange": 1 + e.batch_size * gpu.bandwidth * 1e9 / (2 * row["trained"] * 4 * rate),
        "teacher": 1 - plain["gflops"] / row["gflops"],
    }


def recipe() -> pd.DataFrame:
    """The paper's recipe beside that of the ``coco`` scale, a row per setting and value.

    Columns: students, setting, paper, source, ours, same.
    """
    rows = []
    for line in pd.read_csv(PAPER / "recipe.csv", dtype=str).to_dict("records"):
        students = STUDENTS[:6] if line["students"] == "all" else line["students"].split()
        paper = (
            "no" if line["value"] == "no" else yaml.safe_load(line["value"])
        )  # YAML 1.1 reads `no` as False
        values = {getattr(experiment("coco", s), line["setting"]) for s in students}
        same = all(_close(value, paper) for value in values)
        shown = " / ".join(
            sorted(
                str([round(v, 4) for v in value] if isinstance(value, tuple) else value) for value in values
            )
        )
        rows.append(
            {
                "students": line["students"].replace(" ", ", "),
                "setting": line["setting"],
                "paper": line["value"],
                "source": line["source"],
                "ours": shown,
                "same": same,
            }
        )
    return pd.DataFrame(rows)


def _close(value: Any, paper: Any) -> bool:
    if isinstance(paper, list):
        return len(value) == len(paper) and all(map(_close, value, paper))
    return abs(value - paper) < 1e-4 if isinstance(paper, float) else value == paper


def paper_runs() -> list[Experiment]:
    """Every run of Tables 1 to 5 at ``coco`` scale, with one seed, and the detectors that are imitated."""
    from c2dlib.reporting.work_list import plan_rows

    runs: dict[str, Experiment] = {}
    for table in ("table1", "table2", "table3a", "table3b", "table4", "table5"):
        for line in plan_rows(table, "coco"):
            e = experiment("coco", line.student, line.method, **line.changes)
            for needed in [detector_teacher(e)] if imitation_in(e.method) else []:
                runs.setdefault(needed.hash(), needed)
            runs.setdefault(e.hash(), e)
    return list(runs.values())


def costs(
    runs: list[Experiment],
    gpu: Gpu,
    numbers: tuple[int, ...] = (1, 8, 32),
    utilisation: float = UTILISATION,
    folder: Path = BENCH,
) -> pd.DataFrame:
    """``estimate`` of each run on each number of GPUs, with student, method and gpus."""
    return pd.DataFrame(
        [
            {
                "student": e.student,
                "method": e.method,
                "gpus": n,
                **estimate(e, n, gpu, utilisation=utilisation, folder=folder),
            }
            for e in runs
            for n in numbers
        ]
    )
