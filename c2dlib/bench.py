"""``make bench``: what our step and the paper's losses cost, measured side by side in one run."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from dataclasses import replace

import torch
from torch import Tensor

from c2dlib.experiment import Experiment
from c2dlib.methods import ClassifierToDetector
from c2dlib.models.students import build_student
from c2dlib.models.teacher import Teacher, build_classifier
from c2dlib.types import TrainOutput

BATCH, OBJECTS, POSITIVES, SIZE, CLASSES = 8, 7, 42, 300, 80
LIMITS = {"our plain step / torchvision's": 1.05, "KD_cls + loc + KD_loc / our plain step": 0.25, "extra memory, GB": 1.0}


def setup(device: str):
    """SSD300 at 300 px, batch 8, 7 objects an image, and a ResNet50 teacher at 112 px."""
    torch.manual_seed(0)
    e = Experiment(student="SSD300-VGG16", method="ours", image_size=SIZE)
    student = build_student(e, CLASSES, "none").to(device).train()
    teacher = Teacher(build_classifier("resnet50", CLASSES, 112), CLASSES, 112).to(device)
    distil = ClassifierToDetector(teacher, ["KDcls", "loc", "KDloc"], lambda_kc=0.4, temperature=2.0, lambda_l=0.15,
                                  lambda_kl=0.15, sampling_size=112, pool_obj=4, pool_maps=8, layers=1)
    images = [torch.rand(3, SIZE, SIZE, device=device) for _ in range(BATCH)]
    targets = []
    for _ in range(BATCH):
        centre, side = SIZE * (0.25 + 0.5 * torch.rand(OBJECTS, 2)), SIZE * (0.15 + 0.25 * torch.rand(OBJECTS, 2))
        boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1).clamp(0, SIZE)
        targets.append({"boxes": boxes.to(device), "labels": torch.randint(1, CLASSES + 1, (OBJECTS,), device=device)})
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
    seconds: dict[str, list[float]] = {}
    timed = steps(device)
    for turn in range(repeats + 1):  # the first turn warms up; the three alternate, so that a drift hits all
        for name, step in timed.items():
            began = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds.setdefault(name, []).append(time.perf_counter() - began)
            print(f"\rturn {turn} of {repeats}: {name:<12}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"SSD300 at {SIZE} px, batch {BATCH}, {OBJECTS} objects and {POSITIVES} positives an image, ResNet50 teacher "
          f"at 112, {device}, 1 thread, torch {torch.__version__}, median of {repeats} alternating runs")
    for name, values in seconds.items():
        print(f"  {name:<12} {statistics.median(values):7.3f} s / step   ({min(values):.3f} to {max(values):.3f})")
    plain = seconds["plain"]
    found = {"our plain step / torchvision's": _ratio(plain, seconds["torchvision"]),
             "KD_cls + loc + KD_loc / our plain step": _ratio(seconds["distilled"], plain) - 1}
    if device == "cpu":
        found["extra memory, GB"] = _extra_memory()
    ok = True
    for name, value in found.items():
        ok &= value <= LIMITS[name]
        print(f"  {name:<40} {value:6.3f}   limit {LIMITS[name]}   {'ok' if value <= LIMITS[name] else 'OVER'}")
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
