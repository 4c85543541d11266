"""``make bench``: the cost of the training step and of the paper's losses; and the paper's scale."""

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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from c2dlib.cluster.cost import BENCH, SHAPE, count, random_step, read_bench, scene
from c2dlib.cluster.cost import CLASSES as COCO_CLASSES
from c2dlib.cluster.cost import OBJECTS as COCO_OBJECTS
from c2dlib.config.experiment import Experiment, experiment
from c2dlib.config.students import STUDENTS
from c2dlib.data.augment import train_transform
from c2dlib.data.images import read_image
from c2dlib.detectors.build import build_student
from c2dlib.detectors.train_output import TrainOutput
from c2dlib.distillation.build import build_distillers
from c2dlib.distillation.distiller import Distiller
from c2dlib.files import write_whole
from c2dlib.teacher.classifier import Teacher, build_classifier
from c2dlib.teacher.crops import crop_batch, crop_regions
from c2dlib.training.loop import accelerate, fit, terms_of
from c2dlib.training.step import TrainingStep
from c2dlib.training.step_cost import PeakMemory

BATCH, OBJECTS, POSITIVES, SIZE, CLASSES = 8, 7, 42, 300, 80
LIMITS = {
    "our plain step / torchvision's": 1.05,
    "KD_cls + loc + KD_loc / our plain step": 0.15,
    "the same, teacher in bfloat16": 0.15,  # only where the processor has it
    "extra memory, GB": 1.0,
}


class FixedPositives(Distiller):
    """Distillers on exactly ``POSITIVES`` positives an image: the matched ones, repeated or cut."""

    def __init__(self, distillers: list[Distiller]):
        self.distillers = distillers

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        index = out.positives.image_index
        rows = torch.cat([(index == b).nonzero()[:, 0].repeat(POSITIVES)[:POSITIVES] for b in range(BATCH)])
        positives = replace(out.positives, **{k: v[rows] for k, v in vars(out.positives).items()})
        terms: dict[str, Tensor] = {}
        for distiller in self.distillers:
            terms |= distiller(replace(out, positives=positives))
        return terms


def setup(device: str, dtype: torch.dtype = torch.float32) -> tuple[TrainingStep, list[Tensor], list[dict]]:
    """SSD300 at 300 px, batch 8, 7 objects an image, and a ResNet50 teacher at 112 px."""
    torch.manual_seed(0)
    e = Experiment(student="SSD300-VGG16", method="C2D", image_size=SIZE)
    student = build_student(e, CLASSES, "none").to(device).train()
    images = [torch.rand(3, SIZE, SIZE, device=device) for _ in range(BATCH)]
    targets = []
    for _ in range(BATCH):
        centre = SIZE * (0.25 + 0.5 * torch.rand(OBJECTS, 2))
        side = SIZE * (0.15 + 0.25 * torch.rand(OBJECTS, 2))
        boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1).clamp(0, SIZE)
        labels = torch.randint(1, CLASSES + 1, (OBJECTS,), device=device)
        targets.append({"boxes": boxes.to(device), "labels": labels})
    distillers = build_distillers(e, _teacher(device, dtype))
    return TrainingStep(student, [FixedPositives(distillers)]), images, targets


def _teacher(device: str, dtype: torch.dtype) -> Teacher:
    return Teacher(build_classifier("resnet50", CLASSES, 112), CLASSES, 112, dtype).to(device)


def steps(device: str) -> dict[str, Callable[[], None]]:
    """Name -> a whole training step without the optimizer (it is the same for all)."""
    step, images, targets = setup(device)
    in_bfloat16 = TrainingStep(step.student, setup(device, torch.bfloat16)[0].distillers)

    def backward(losses: dict[str, Tensor]) -> None:
        step.zero_grad(set_to_none=True)
        reduce(torch.add, losses.values()).backward()

    return {
        "torchvision": lambda: backward(step.student.model(images, targets)),
        "plain": lambda: backward(step(images, targets, distilled=False)),
        "distilled": lambda: backward(step(images, targets)),
        "bfloat16": lambda: backward(in_bfloat16(images, targets)),
    }


def step_parts(device: str) -> dict[str, Callable[[], object]]:
    """Name -> what the losses add to a step, part by part, on as many objects and positives as ``steps``."""
    _, images, targets = setup(device)
    batch, boxes = torch.stack(images) * 255, torch.cat([target["boxes"] for target in targets])
    rows = torch.arange(BATCH, device=device)
    of_objects, of_positives = rows.repeat_interleave(OBJECTS), rows.repeat_interleave(POSITIVES)
    predicted = boxes.repeat_interleave(POSITIVES // OBJECTS, dim=0)
    crops, chunk = crop_regions(batch, boxes, of_objects, 112), 8 if device == "cpu" else 256

    def of_predicted(read: Callable[[Tensor], Tensor] | None, backward: bool) -> None:
        for part in torch.arange(len(predicted)).split(chunk):
            chunk_boxes = predicted[part].requires_grad_(backward)
            view = crop_regions(batch, chunk_boxes, of_positives[part], 112)
            view = read(view) if read else view
            if backward:
                view.sum().backward()

    calls: dict[str, Callable[[], object]] = {
        "crops": lambda: of_predicted(None, False),
        "crops, with backward": lambda: of_predicted(None, True),
    }
    for dtype in (torch.float32, torch.bfloat16):
        teacher, name = _teacher(device, dtype), str(dtype).removeprefix("torch.")
        early = lambda view, teacher=teacher: teacher.early(view, 1)[0]  # noqa: E731
        calls |= {
            f"logits, {name}": lambda teacher=teacher: teacher.read(crops),
            f"crops, maps, {name}": lambda early=early: of_predicted(early, False),
            f"the same, with backward, {name}": lambda early=early: of_predicted(early, True),
        }
    return calls


def peak_memory(name: str, pipe) -> None:
    """In a process of its own: the peak resident memory of two steps, in GB."""
    torch.set_num_threads(1)
    call = steps("cpu")[name]
    for _ in range(2):
        call()
    unit = 1 if sys.platform == "darwin" else 1024
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9)


def bench(device: str = "cpu", repeats: int = 3) -> int:
    """Print the ratios and the parts of a step; exit status 1 if a ratio is over its limit."""
    torch.set_num_threads(1)
    seconds = _turns(steps(device), device, repeats)
    print(
        f"SSD300 at {SIZE} px, batch {BATCH}, {OBJECTS} objects and {POSITIVES} positives an image, "
        f"ResNet50 teacher at 112, {device}, 1 thread, torch {torch.__version__}, "
        f"median of {repeats} alternating runs"
    )
    _print_seconds(seconds)
    parts = _turns(step_parts(device), device, repeats)
    print("Parts of the distilled step, each alone: the teacher reads the objects, then the predicted boxes")
    _print_seconds(parts)
    plain = seconds["plain"]
    ratios = {
        "our plain step / torchvision's": _ratio(plain, seconds["torchvision"]),
        "KD_cls + loc + KD_loc / our plain step": _ratio(seconds["distilled"], plain) - 1,
        "the same, teacher in bfloat16": _ratio(seconds["bfloat16"], plain) - 1,
    }
    if _ratio(parts["logits, bfloat16"], parts["logits, float32"]) > 0.8:
        print("  this processor computes bfloat16 no faster than float32: its limit does not count")
        del ratios["the same, teacher in bfloat16"]
    if device == "cpu":
        ratios["extra memory, GB"] = _extra_memory()
    ok = True
    for name, value in ratios.items():
        within = value <= LIMITS[name]
        ok &= within
        print(f"  {name:<40} {value:6.3f}   limit {LIMITS[name]}   {'ok' if within else 'OVER'}")
    return 0 if ok else 1


def _print_seconds(seconds: dict[str, list[float]]) -> None:
    for name, values in seconds.items():
        median, lowest, highest = statistics.median(values), min(values), max(values)
        print(f"  {name:<34} {median:7.3f} s / step   ({lowest:.3f} to {highest:.3f})")


def _ratio(a: list[float], b: list[float]) -> float:
    """Median of the turn-by-turn ratios: robust against a machine whose speed drifts."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def _extra_memory() -> float:
    context, peaks = multiprocessing.get_context("spawn"), {}
    for name in ("plain", "distilled"):
        receiver, sender = context.Pipe()
        process = context.Process(target=peak_memory, args=(name, sender))
        process.start()
        peaks[name] = receiver.recv()
        process.join()
    print(f"  peak memory: plain {peaks['plain']:.2f} GB, distilled {peaks['distilled']:.2f} GB")
    return peaks["distilled"] - peaks["plain"]


METHODS = ["baseline", "C2D", "FKD"]  # that are counted and timed at the paper's scale
# student -> largest time of a C2D step in time of a plain one, on a GPU
OVERHEAD = {"SSD300-VGG16": 1.15, "FasterRCNN-R50": 1.25}


def counts(device: str, students: list[str], repeats: int) -> int:
    """Count a training step of every student at the paper's scale, see ``cost.count``; always on the CPU."""
    rows = {(r["student"], r["method"]): r for r in read_bench("counts", BENCH)}
    for student in students or STUDENTS:
        for method in METHODS:
            row = count(experiment("coco", student, method, backbone_weights="none"))
            rows[row["student"], row["method"]] = row
            print(
                f"{student:<16} {row['method']:<16} {row['gflops']:8.1f} GFLOP "
                f"{row['activations_mb']:8.1f} MB kept, an image",
                flush=True,
            )
            _write("counts", list(rows.values()), "counted")
    print(f"written: {BENCH / 'counts.json'}")
    return 0


def throughput(device: str, students: list[str], repeats: int) -> int:
    """Images per second of a training step at the paper's scale on one device, and where the time goes.

    On a GPU with the batch that one of eight has, in fp32 and bf16; on a CPU one image on one thread, in
    fp32. Timed turn by turn: the plain step, the whole step, the objects' crops, the teacher's reading of
    them; and a core's decoding and augmenting.
    """
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{platform.processor() or platform.machine()}, one thread"
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
                    "image_size": e.image_size,
                    **_rates(e, device, max(1, e.batch_size // 8) if device == "cuda" else 1, repeats),
                }
                rows[name, student, e.method, precision] = row
                _write("throughput", list(rows.values()), f"torch {torch.__version__}")
                limit = OVERHEAD.get(student) if method == "C2D" and device == "cuda" else None
                verdict = ""
                if limit is not None:
                    over |= row["relative"] > limit
                    verdict = f"  limit {limit}  {'OVER' if row['relative'] > limit else 'ok'}"
                print(
                    f"{student:<16} {e.method:<16} {precision:<5} {row['images_per_second']:8.2f} images/s  "
                    f"{row['relative']:.3f}x a plain step{verdict}  {row['memory_mb']:.0f} MB  "
                    f"loader: {row['loaded_per_core_second']:.0f} images/s a core",
                    flush=True,
                )
    print(f"written: {BENCH / 'throughput.json'}")
    return int(over)


def _rates(e: Experiment, device: str, batch: int, repeats: int) -> dict:
    step, teacher = random_step(e, device)
    images, targets = scene(batch, device)
    peak = PeakMemory(device)
    autocast = accelerate(device, e.precision).autocast

    def backward(distilled: bool) -> None:
        step.zero_grad(set_to_none=True)
        with autocast():
            total = reduce(torch.add, step(images, targets, distilled).values())
        total.backward()

    calls = {"plain": lambda: backward(False), "whole": lambda: backward(True)}
    if teacher is not None:  # KD_cls reads every object once
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


def _turns(calls: Mapping[str, Callable[[], object]], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, turn by turn, so that a change of the machine's speed affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - began)
            print(f"\rturn {turn} of {repeats}: {name:<34}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return seconds


def loader_rate(e: Experiment, repeats: int = 30) -> float:
    """Images of COCO's usual size that one core decodes and augments per second: a median."""
    from torchvision import tv_tensors

    height, width = SHAPE
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(
        1, 3, 15, 20, generator=generator
    )  # a smooth image compresses about as a photograph does
    smooth = torch.nn.functional.interpolate(coarse, SHAPE, mode="bicubic").clamp(0, 1)[0]
    pixels = smooth + 0.05 * torch.randn(3, *SHAPE, generator=generator)
    picture = io.BytesIO()
    image = Image.fromarray((255 * pixels.clamp(0, 1)).byte().permute(1, 2, 0).numpy())
    image.save(picture, "JPEG", quality=90)
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
    """Compare the losses and the gradient of the smallest student's first step on the device and on the CPU.

    The first step is computed without TF32, which rounds a GPU's convolutions to 10 bits. The steps after it
    are printed for information only: rounding alone drives two trainings apart. Beside them stands the CPU's
    training from initial weights that differ by a millionth.

    Returns:
        1 if a term differs by more than 1 % or the gradients' cosine is below 0.999, else 0.
    """
    e = experiment(
        "smoke",
        "SSD300-VGG16",
        "C2D",
        backbone_weights="none",
        steps=steps,
        width=0.25,
        teacher_width=1.0,
    )
    terms, gradient = _first_step("cpu", e)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        device_terms, device_gradient = _first_step(device, e)
    worst = max(abs(device_terms[name] - value) / max(abs(value), 1e-6) for name, value in terms.items())
    cosine = float(torch.cosine_similarity(gradient, device_gradient, dim=0))
    ok = worst <= 0.01 and cosine >= 0.999
    print(f"{'':<9}  CPU / {device} / CPU from weights that differ by a millionth")
    for logs in zip(*(_trained_on(*how) for how in (("cpu", e), (device, e), ("cpu", e, 1e-6))), strict=True):
        values = [f"{name} {' / '.join(f'{log[name]:.5f}' for log in logs)}" for name in terms_of(logs[0])]
        print(f"step {logs[0]['step']:>3}:  {'  '.join(values)}")
    print(
        f"first step, CPU and {device}: largest relative difference of a term {worst:.1e} (limit 0.01), "
        f"cosine of the gradients {cosine:.6f} (limit 0.999): {'ok' if ok else 'OVER'}"
    )
    return int(not ok)


def _first_step(device: str, e: Experiment) -> tuple[dict[str, float], Tensor]:
    """The terms of a training's first step on random images, and the gradient of their sum."""
    step, _ = random_step(e, device)
    images, targets = scene(2, seed=0)
    terms = step(
        [image.to(device) for image in images],
        [{name: value.to(device) for name, value in target.items()} for target in targets],
    )
    sum(terms.values()).backward()
    gradients = [p.grad.flatten().cpu() for p in step.parameters() if p.grad is not None]
    return {name: float(value.detach()) for name, value in terms.items()}, torch.cat(gradients).double()


def _trained_on(device: str, e: Experiment, change: float = 0.0) -> list[dict]:
    """The log of a training on random images.

    Args:
        change: relative size of a random change of the initial weights.
    """
    step, _ = random_step(e, device)
    with torch.no_grad():
        for parameter in step.parameters() if change else ():
            parameter.mul_(1 + change * torch.randn_like(parameter))

    def batches(start: int) -> Iterator:
        return (scene(2, seed=i) for i in range(start, e.steps))

    with tempfile.TemporaryDirectory() as folder:
        return fit(e, e.steps, step.trained, batches, step, Path(folder), device)


def _write(name: str, rows: list[dict], how: str) -> None:
    about = {
        "how": f"{how}; {SHAPE[1]} x {SHAPE[0]} px, "
        f"{COCO_OBJECTS} objects of {COCO_CLASSES} classes an image",
        "command": f"make bench ARGS='--what {name}'",
    }
    write_whole(BENCH / f"{name}.json", json.dumps({**about, "rows": rows}, indent=1) + "\n")
