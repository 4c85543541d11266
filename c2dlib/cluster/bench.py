"""``make bench``: what our step and the paper's losses cost, measured side by side; and what the paper's scale needs."""

from __future__ import annotations

import io
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from c2dlib.cluster.cost import BENCH, SHAPE, count, read_bench, scene, training_step
from c2dlib.cluster.cost import CLASSES as COCO_CLASSES
from c2dlib.cluster.cost import OBJECTS as COCO_OBJECTS
from c2dlib.config.experiment import Experiment, experiment
from c2dlib.config.students import STUDENTS
from c2dlib.data.augment import train_transform
from c2dlib.data.images import read_image
from c2dlib.detectors.build import build_student
from c2dlib.detectors.train_output import TrainOutput
from c2dlib.distillation.classify import ClassifierToDetector
from c2dlib.files import write_whole
from c2dlib.teacher.classifier import Teacher, build_classifier
from c2dlib.teacher.crops import crop_batch
from c2dlib.training.loop import PeakMemory, accelerate, fit

BATCH, OBJECTS, POSITIVES, SIZE, CLASSES = 8, 7, 42, 300, 80
LIMITS = {
    "our plain step / torchvision's": 1.05,
    "KD_cls + loc + KD_loc / our plain step": 0.25,
    "extra memory, GB": 1.0,
}


def setup(device: str):
    """SSD300 at 300 px, batch 8, 7 objects an image, and a ResNet50 teacher at 112 px."""
    torch.manual_seed(0)
    e = Experiment(student="SSD300-VGG16", method="ours", image_size=SIZE)
    student = build_student(e, CLASSES, "none").to(device).train()
    teacher = Teacher(build_classifier("resnet50", CLASSES, 112), CLASSES, 112).to(device)
    distil = ClassifierToDetector(
        teacher,
        ["KDcls", "loc", "KDloc"],
        lambda_kc=0.4,
        temperature=2.0,
        lambda_l=0.15,
        lambda_kl=0.15,
        sampling_size=112,
        pool_obj=4,
        pool_maps=8,
        layers=1,
    )
    images = [torch.rand(3, SIZE, SIZE, device=device) for _ in range(BATCH)]
    targets = []
    for _ in range(BATCH):
        centre, side = (
            SIZE * (0.25 + 0.5 * torch.rand(OBJECTS, 2)),
            SIZE * (0.15 + 0.25 * torch.rand(OBJECTS, 2)),
        )
        boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1).clamp(0, SIZE)
        targets.append(
            {"boxes": boxes.to(device), "labels": torch.randint(1, CLASSES + 1, (OBJECTS,), device=device)}
        )
    return student, distil, images, targets


def with_positives(out: TrainOutput) -> TrainOutput:
    """The output with exactly 42 positives an image: the matched ones, repeated or cut."""
    index = out.positives.image_index
    rows = torch.cat([(index == b).nonzero()[:, 0].repeat(POSITIVES)[:POSITIVES] for b in range(BATCH)])
    chosen = {k: v[rows] for k, v in vars(out.positives).items()}
    return replace(out, positives=replace(out.positives, **chosen))


def steps(device: str) -> dict:
    """Name -> a whole training step without the optimizer (it is the same for all)."""
    student, distil, images, targets = setup(device)

    def backward(losses: list[Tensor]) -> None:
        student.zero_grad(set_to_none=True)
        sum(losses).backward()

    def torchvision_step() -> None:
        backward(list(student.model(images, targets).values()))

    def plain() -> None:
        backward(list(student(images, targets).task_losses.values()))

    def distilled() -> None:
        out = student(images, targets)
        backward([*out.task_losses.values(), *distil(with_positives(out)).values()])

    return {"torchvision": torchvision_step, "plain": plain, "distilled": distilled}


def peak_memory(name: str, pipe) -> None:
    """In a process of its own: the peak resident memory of two steps, in GB."""
    torch.set_num_threads(1)
    step = steps("cpu")[name]
    for _ in range(2):
        step()
    unit = 1 if sys.platform == "darwin" else 1024
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)


def bench(device: str = "cpu", repeats: int = 3) -> int:
    """Print the ratios; exit status 1 if one is over its limit."""
    torch.set_num_threads(1)
    seconds = _turns(steps(device), device, repeats)
    print(
        f"SSD300 at {SIZE} px, batch {BATCH}, {OBJECTS} objects and {POSITIVES} positives an image, ResNet50 teacher "
        f"at 112, {device}, 1 thread, torch {torch.__version__}, median of {repeats} alternating runs"
    )
    for name, values in seconds.items():
        print(
            f"  {name:<12} {statistics.median(values):7.3f} s / step   ({min(values):.3f} to {max(values):.3f})"
        )
    plain = seconds["plain"]
    found = {
        "our plain step / torchvision's": _ratio(plain, seconds["torchvision"]),
        "KD_cls + loc + KD_loc / our plain step": _ratio(seconds["distilled"], plain) - 1,
    }
    if device == "cpu":
        found["extra memory, GB"] = _extra_memory()
    ok = True
    for name, value in found.items():
        ok &= value <= LIMITS[name]
        print(
            f"  {name:<40} {value:6.3f}   limit {LIMITS[name]}   {'ok' if value <= LIMITS[name] else 'OVER'}"
        )
    return 0 if ok else 1


def _ratio(a: list[float], b: list[float]) -> float:
    """Median of the turn-by-turn ratios: robust against a machine whose speed drifts."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def _extra_memory() -> float:
    context, peaks = multiprocessing.get_context("spawn"), {}
    for name in ("plain", "distilled"):
        mine, theirs = context.Pipe()
        process = context.Process(target=peak_memory, args=(name, theirs))
        process.start()
        peaks[name] = mine.recv()
        process.join()
    print(f"  peak memory: plain {peaks['plain']:.2f} GB, distilled {peaks['distilled']:.2f} GB")
    return peaks["distilled"] - peaks["plain"]


METHODS = ["baseline", "ours", "FKD"]  # that the paper's scale is counted and timed with
OVERHEAD = {
    "SSD300-VGG16": 1.15,
    "FasterRCNN-R50": 1.25,
}  # at most, of a step with ours in time of a plain one, on a GPU


def counts(device: str, students: list[str], repeats: int) -> int:
    """Count a training step of every student at the paper's scale; on the CPU, whatever the device. See ``cost.count``."""
    rows = {(r["student"], r["method"]): r for r in read_bench("counts", BENCH)}
    for student in students or STUDENTS:
        for method in METHODS:
            row = count(experiment("coco", student, method, backbone_weights="none"))
            rows[row["student"], row["method"]] = row
            print(
                f"{student:<16} {row['method']:<16} {row['gflops']:8.1f} GFLOP {row['activations_mb']:8.1f} MB kept, an image",
                flush=True,
            )
            _write("counts", list(rows.values()), "counted")
    print(f"written: {BENCH / 'counts.json'}")
    return 0


def throughput(device: str, students: list[str], repeats: int) -> int:
    """Images per second of a training step at the paper's scale on one device, and where the time goes.

    On a GPU with the batch that one of eight has, in fp32 and bf16; on a CPU one image on one thread, in fp32. Turn by turn:
    the plain step, the whole step, the objects' crops, the teacher's reading of them; and a core's decoding and augmenting.
    """
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.processor() or platform.machine()}, one thread"
    )
    if device == "cpu":
        torch.set_num_threads(1)
    rows = {
        (r["device"], r["student"], r["method"], r["precision"]): r for r in read_bench("throughput", BENCH)
    }
    over = False
    for student in students or STUDENTS:
        for method in METHODS:
            for precision in ["no", "bf16"] if device == "cuda" else ["no"]:
                e = experiment("coco", student, method, precision=precision, backbone_weights="none")
                row = {
                    "device": name,
                    "student": student,
                    "method": e.method,
                    "precision": precision,
                    **_rates(e, device, max(1, e.batch_size // 8) if device == "cuda" else 1, repeats),
                }
                rows[name, student, e.method, precision] = row
                _write("throughput", list(rows.values()), f"torch {torch.__version__}")
                limit = OVERHEAD.get(student) if method == "ours" and device == "cuda" else None
                bad = limit is not None and row["relative"] > limit
                over |= bad
                print(
                    f"{student:<16} {e.method:<16} {precision:<5} {row['images_per_second']:8.2f} images/s  {row['relative']:.3f}x a plain step"
                    f"{f'  limit {limit}' + ('  OVER' if bad else '  ok') if limit else ''}  {row['memory_mb']:.0f} MB  "
                    f"loader: {row['loaded_per_core_second']:.0f} images/s a core",
                    flush=True,
                )
    print(f"written: {BENCH / 'throughput.json'}")
    return int(over)


def _rates(e: Experiment, device: str, batch: int, repeats: int) -> dict:
    student, losses, teacher = training_step(e, device)
    images, targets = scene(batch, device)
    peak = PeakMemory(device)
    autocast = accelerate(device, e.precision).autocast

    def step(distilled: bool) -> None:
        student.zero_grad(set_to_none=True)
        with autocast():
            total = sum(losses(images, targets, distilled).values())
        total.backward()

    calls = {"plain": lambda: step(False), "whole": lambda: step(True)}
    if teacher is not None:  # what KD_cls asks: every object once
        crops, _ = crop_batch(images, targets, e.teacher_size)
        calls |= {
            "crops": lambda: crop_batch(images, targets, e.teacher_size),
            "teacher": lambda: teacher.read(crops),
        }
    seconds = _turns(calls, device, repeats)
    loaded = loader_rate(e)
    whole, relative = statistics.median(seconds["whole"]), _ratio(seconds["whole"], seconds["plain"])
    shares = {
        f"share_of_{name}": round(statistics.median(seconds[name]) / whole, 4)
        for name in ("crops", "teacher")
        if name in seconds
    }
    return {
        "batch": batch,
        "images_per_second": round(batch / whole, 3),
        "relative": round(relative, 3),
        "share_of_distillation": round(max(0.0, 1 - 1 / relative), 3),
        **shares,
        "loaded_per_core_second": round(loaded, 1),
        "cores_to_feed_it": round(batch / whole / loaded, 2),
        "memory_mb": round(peak()),
    }


def _turns(calls: dict[str, Callable[[], None]], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, turn by turn, so that a machine whose speed drifts slows all; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - began)
            print(f"\rturn {turn} of {repeats}: {name:<12}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seconds


def loader_rate(e: Experiment, repeats: int = 30) -> float:
    """Images of COCO's usual size that one core decodes and augments in a second, by the median of ``repeats``."""
    from torchvision import tv_tensors

    height, width = SHAPE
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(
        1, 3, 15, 20, generator=generator
    )  # smooth, so that it compresses about as a photograph does
    pixels = torch.nn.functional.interpolate(coarse, SHAPE, mode="bicubic").clamp(0, 1)[
        0
    ] + 0.05 * torch.randn(3, *SHAPE, generator=generator)
    picture = io.BytesIO()
    Image.fromarray((255 * pixels.clamp(0, 1)).byte().permute(1, 2, 0).numpy()).save(
        picture, "JPEG", quality=90
    )
    _, targets = scene(1)
    transform, threads = train_transform(e), torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Path(file.name).write_bytes(picture.getvalue())
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            target = {
                "boxes": tv_tensors.BoundingBoxes(targets[0]["boxes"], format="XYXY", canvas_size=SHAPE),
                "labels": targets[0]["labels"],
            }
            transform(tv_tensors.Image(read_image(Path(file.name), width, height)), target)
            seconds.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return 1 / statistics.median(seconds)


def agreement(device: str, steps: int = 20) -> int:
    """Train the smallest student ``steps`` steps with all losses on the device and on the CPU, from one seed; compare the losses."""
    logs = {}
    for where in ("cpu", device):
        e = experiment(
            "smoke",
            "SSD300-VGG16",
            "ours",
            backbone_weights="none",
            steps=steps,
            width=0.25,
            teacher_width=1.0,
        )
        student, losses, _ = training_step(e, where)
        with tempfile.TemporaryDirectory() as folder:
            logs[where, len(logs)] = fit(
                e,
                steps,
                {"student": student},
                lambda start: (scene(2, seed=i) for i in range(start, steps)),
                losses,
                Path(folder),
                where,
            )
    (_, ours), (_, theirs) = logs.items()
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        for term in a.keys() - {"step", "seconds"}:
            worst = max(worst, abs(a[term] - b[term]) / max(abs(a[term]), 1e-6))
        print(
            f"step {a['step']:>3}: "
            + "  ".join(
                f"{term} {a[term]:.5f} / {b[term]:.5f}" for term in a if term not in ("step", "seconds")
            )
        )
    print(
        f"largest relative difference of a term, CPU / {device}: {worst:.1e}   limit 0.05   {'ok' if worst <= 0.05 else 'OVER'}"
    )
    return int(worst > 0.05)


def _write(name: str, rows: list[dict], how: str) -> None:
    about = {
        "how": f"{how}; {SHAPE[1]} x {SHAPE[0]} px, {COCO_OBJECTS} objects of {COCO_CLASSES} classes an image",
        "command": f"make bench ARGS='--what {name}'",
    }
    write_whole(BENCH / f"{name}.json", json.dumps({**about, "rows": rows}, indent=1) + "\n")
