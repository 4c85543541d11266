"""Several processes at one run: loss, gradient, boxes and checkpoint are those of one process."""

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import PartialState
from safetensors.torch import load_file

from c2dlib import distributed
from c2dlib.config.experiment import Experiment
from c2dlib.config.students import ARCHITECTURES
from c2dlib.data.badges import make_badges
from c2dlib.data.batches import training_batches
from c2dlib.data.coco import load_folder
from c2dlib.data.validation import DataError
from c2dlib.detectors.build import build_student
from c2dlib.distillation.build import build_distillers, build_imitation
from c2dlib.evaluation.metrics import detect
from c2dlib.records import ROOT, read_record
from c2dlib.teacher.classifier import Teacher, build_classifier
from c2dlib.training import loop
from c2dlib.training.finished import run_folder
from c2dlib.training.loop import NonFiniteLoss, OptimizerSettings, fit, terms_of
from c2dlib.training.run import experiment_for, require_same_data, run
from c2dlib.training.step import TrainingStep
from c2dlib.workspace import open_workspace

SGD = OptimizerSettings(
    lr=1.0, optimizer="sgd", weight_decay=0.0, schedule="step", milestones=(), warmup=0, clip=0.0
)
STUDENTS = ["SSD300-VGG16", "RetinaNet-R50", "FCOS-R50", "FasterRCNN-QR50", "MaskRCNN-R50"]
CLASSES, SIDE = 5, 64


def on_two(work, *args):
    """``work(*args)`` in two gloo processes; what each returned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.Manager() as manager:
        returned = manager.dict()
        mp.spawn(_one_of_two, (port, returned, work, args), nprocs=2)
        return [returned[rank] for rank in range(2)]


def _one_of_two(rank, port, returned, work, args):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    distributed.join("cpu")
    returned[rank] = work(*args)
    PartialState().wait_for_everyone()
    torch.distributed.destroy_process_group()


def scenes(which):
    """Four images of one size. ``which``: those with objects; the others are empty."""
    generator = torch.Generator().manual_seed(1)
    images, targets = [], []
    for i in range(4):
        images.append(torch.rand(3, SIDE, SIDE, generator=generator))
        n = (i + 1) if i in which else 0
        corner = torch.rand(n, 2, generator=generator) * 24
        boxes = torch.cat([corner, corner + 16 + 20 * torch.rand(n, 2, generator=generator)], 1)
        masks = torch.zeros(n, SIDE, SIDE, dtype=torch.uint8)
        for mask, (x, y, x2, y2) in zip(masks, boxes.long().tolist(), strict=True):
            mask[y:y2, x:x2] = 1
        targets.append({"boxes": boxes, "labels": torch.arange(n) % CLASSES + 1, "masks": masks})
    return images, targets


def settings(student):
    return Experiment(
        student=student,
        width=0.125,
        depth=0.2,
        image_size=SIDE,
        max_size=SIDE,
        fpn_channels=16,
        box_head_dim=32,
        backbone_weights="none",
        anchor_scale=1.0,
        frozen_stages=0,
        rpn_top_n=40,
    )


def one_step(student, which, method, folder):
    """Train one step of plain SGD on this process's share of four images.

    Returns:
        The change of every weight of the student, and the loss terms.
    """
    torch.manual_seed(0)
    e = settings(student).replace(method=method, sampling_size=48)
    detector = build_student(e, CLASSES, "none")
    if hasattr(detector.model, "roi_heads"):  # all anchors and proposals instead of a random choice
        for sampler in (detector.model.rpn.fg_bg_sampler, detector.model.roi_heads.fg_bg_sampler):
            sampler.batch_size_per_image, sampler.positive_fraction = 100_000, 1.0
    teacher, imitation = None, None
    if method == "C2D":
        teacher = Teacher(build_classifier("resnet10t", CLASSES, 48), CLASSES, 48)
    if method == "CWD":
        stronger = settings(ARCHITECTURES[student].detector_teacher)
        imitation = build_imitation(e, detector, build_student(stronger, CLASSES, "none").model)
    step = TrainingStep(detector, build_distillers(e, teacher, imitation))
    rank = distributed.rank()
    own = slice(None) if distributed.world() == 1 else slice(2 * rank, 2 * rank + 2)
    images, targets = scenes(which)
    before = {n: p.detach().clone() for n, p in detector.named_parameters()}
    batch = (images[own], targets[own])
    with patch.object(loop, "LOG_EVERY", 1):  # the first of two steps: the last one's weights are checked
        log = fit(SGD, 2, step.trained, lambda start: [batch], step, folder, "cpu", shared=True)
    return {n: p.detach() - before[n] for n, p in detector.named_parameters()}, log[0]


# images with objects, method; the last two images are the second process's
CASES = [((0, 1, 2, 3), "C2D"), ((2, 3), "C2D"), ((), "C2D"), ((2, 3), "CWD")]


def all_cases(student, folder):
    return [one_step(student, which, method, folder / f"{i}") for i, (which, method) in enumerate(CASES)]


@pytest.mark.parametrize("student", STUDENTS)
def test_two_processes_with_half_the_batch_each_step_as_one(student, tmp_path):
    """Objects everywhere; none in the first process's images; none at all; and a detector's method."""
    alone, shared = all_cases(student, tmp_path / "alone"), on_two(all_cases, student, tmp_path / "shared")
    for case, (changes, terms) in enumerate(alone):
        largest = max(float(d.abs().max()) for d in changes.values())
        assert largest > 1e-5 or (
            student.startswith("SSD") and CASES[case][0] == ()
        )  # SSD learns nothing without an object
        for process_changes, named in (shared[0][case], shared[1][case]):
            assert process_changes.keys() == changes.keys() and named.keys() == terms.keys()
            for name in terms_of(terms):
                assert named[name] == pytest.approx(terms[name], rel=1e-5, abs=1e-6), (name, CASES[case])
            for name, change in process_changes.items():
                assert (change - changes[name]).abs().max() <= 1e-5 * max(1.0, largest), (name, CASES[case])
        assert all(torch.equal(shared[0][case][0][n], shared[1][case][0][n]) for n in changes)


class FiveImages(list):
    """A split of as many images as two processes cannot share evenly."""

    def __init__(self):
        self.categories, self.image_ids = (
            [SimpleNamespace(id=10 * i) for i in range(CLASSES)],
            [105, 104, 103, 102, 101],
        )
        generator = torch.Generator().manual_seed(2)
        super().__init__(
            ((255 * torch.rand(3, SIDE, SIDE, generator=generator)).byte(), {}) for _ in range(5)
        )


def boxes_found():
    torch.manual_seed(0)
    model = build_student(settings("SSD300-VGG16").replace(score_threshold=0.0), CLASSES, "none").model
    done = []
    found = detect(model, FiveImages(), "cpu", batch_size=1, progress=lambda n, of: done.append((n, of)))
    return found, done


class Line(torch.nn.Module):
    """Not a student: one linear layer whose second process may compute a term that is not a number."""

    def __init__(self, broken):
        super().__init__()
        self.net, self.broken = torch.nn.Linear(2, 1), broken

    def forward(self, images, targets):
        out = self.net(torch.stack(images)).square().mean()
        spoilt = self.broken and distributed.rank() == 1
        return {"fine": out, "broken": out * (float("nan") if spoilt else 1)}


def fit_line(steps, folder, broken=False, shared=True):
    line = Line(broken)
    batch = ([torch.ones(2)], [])
    fit(SGD, steps, {"net": line.net}, lambda start: [batch], line, folder, "cpu", shared=shared)


def not_a_number_in_the_second(folder):
    try:
        fit_line(1, folder, broken=True)
    except NonFiniteLoss as error:
        return str(error)


def other_checkpoints(folder):
    """Each process reads a folder of its own, and only the first one's has a checkpoint."""
    own = folder / str(distributed.rank())
    if distributed.first():
        fit_line(1, own, shared=False)
    try:
        fit_line(2, own)
    except OSError as error:
        return str(error)


def the_rest(folder):
    return (
        boxes_found(),
        not_a_number_in_the_second(folder / "nan"),
        other_checkpoints(folder / "own"),
        distributed.agreed(distributed.rank()),
    )


def test_evaluation_and_failures_of_two_processes(tmp_path):
    """Every image is evaluated once, in order; both stop at a NaN in one, and at different checkpoints."""
    alone, done = boxes_found()
    assert len({row["image_id"] for row in alone}) == 5 and done == [(i, 5) for i in range(1, 6)]
    for rank, ((found, done), broken, apart, agreed_rank) in enumerate(on_two(the_rest, tmp_path)):
        assert [(row["image_id"], row["category_id"]) for row in found] == [
            (row["image_id"], row["category_id"]) for row in alone
        ]
        assert torch.allclose(
            torch.tensor([row["bbox"] for row in found]),
            torch.tensor([row["bbox"] for row in alone]),
            atol=1e-4,
        )
        assert done[-1] == ((3, 3), (2, 2))[rank]
        assert broken.startswith("step 0: loss term broken is nan")
        assert "the processes find checkpoints of steps [1, 0]; it must be one folder for all" in apart
        assert agreed_rank == 0


def test_terms_as_of_one_batch_by_hand(monkeypatch):
    """Three of eight positives here: 2 x 3 / 8; two of four images: 2 x 2 / 4."""
    totals = torch.tensor([8.0, 4.0, 1.0], dtype=torch.float64)
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda counts: counts.copy_(totals))
    terms = {"KDcls": torch.tensor(1.0), "dense": torch.tensor(5.0), "empty": torch.tensor(3.0)}
    scaled = distributed.as_one_batch(terms, {"KDcls": 3, "empty": 0}, images=2)
    assert {k: v.item() for k, v in scaled.items()} == {
        "KDcls": 0.75,
        "dense": 5.0,
        "empty": 6.0,
    }  # max(1, 0) is 1


def test_runs_beside_each_other_take_different_gpus(monkeypatch, tmp_path):
    current = []
    monkeypatch.setattr(distributed, "_held", [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [distributed.claim_gpu(tmp_path), distributed.claim_gpu(tmp_path)] == [0, 1] == current
    distributed._held[0].release()
    assert distributed.claim_gpu(tmp_path, wait=True) == 0  # the one that is free again
    assert distributed.claim_gpu(tmp_path) in (0, 1) and len(current) == 4  # none is free: one is shared
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.claim_gpu(tmp_path) is None and len(current) == 4


def test_more_processes_than_gpus_is_said(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"process 3 of this machine finds 2 GPU\(s\).*--num_processes"):
        distributed.join("cuda")


DIES = """
import os, signal, sys
from c2dlib import cli
from c2dlib.training import loop

loop.CHECKPOINT_SECONDS, save = 0, loop.save_checkpoint

def save_and_die(folder, step, state):
    save(folder, step, state)
    if os.environ.get("DIES") and "KDcls" in folder.name and step < 5:
        os.kill(os.getpid(), signal.SIGKILL)

loop.save_checkpoint = save_and_die
sys.exit(cli.main(sys.argv[1:]))
"""
RUN = [
    "run",
    "SSD300-VGG16",
    "KDcls+loc",
    "--scale",
    "smoke",
    "--device",
    "cpu",
    "--set",
    "backbone_weights=none",
    "norm=frozen",
    "steps=5",
    "batch_size=4",
    "optimizer=sgd",
    "lr=0.001",
    "max_positives=0",
    "teacher_steps=2",
    "teacher_images=4",
    "image_size=64",
]


def started(folder, count, dies=False, check=True):
    """The command of one run in ``count`` processes, in ``folder``; what it printed."""
    (folder / "script.py").write_text(DIES)
    alone = [sys.executable, "script.py"]
    several = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
        "script.py",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | (
        {"DIES": "1"} if dies else {}
    )
    done = subprocess.run(
        [*(several if count > 1 else alone), *RUN],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def test_a_killed_run_goes_on_in_as_many_processes_or_in_fewer(tmp_path):
    folders = {name: tmp_path / name for name in ("alone", "two", "then one")}
    folders["alone"].mkdir()
    assert (
        "record: results/badges-smoke/records/SSD300-VGG16.KDcls+loc.s0"
        in started(folders["alone"], 1).stdout
    )
    folders["two"].mkdir()
    assert started(folders["two"], 2, dies=True, check=False).returncode != 0
    (run,) = (folders["two"] / "runs/badges-smoke").glob("*KDcls*/")
    assert len(list(run.glob("step-*.pt"))) == 1 and (run / "started.json").exists()
    shutil.copytree(folders["two"], folders["then one"])
    assert started(folders["two"], 2).stdout.count("record: ") == 1  # the first process tells
    started(folders["then one"], 1)
    records, weights = [], []
    for name, folder in folders.items():
        (path,) = (folder / "results/badges-smoke/records").glob("*.json")
        records.append(read_record(path))
        assert records[-1].status == "done" and records[-1].processes == (2 if name == "two" else 1)
        (student,) = (folder / "runs/badges-smoke").glob("*KDcls*/student.safetensors")
        weights.append(load_file(student))
        assert not list(student.parent.glob("step-*.pt"))
    for other in weights[1:]:
        assert all((other[k] - v).abs().max() < 1e-5 for k, v in weights[0].items() if v.is_floating_point())
    assert len({r.hash for r in records}) == 1 and records[1].metrics["mAP"] == pytest.approx(
        records[0].metrics["mAP"], abs=0.5
    )


def test_statistics_of_a_share_of_a_batch_are_refused(monkeypatch, tmp_path):
    workspace, data = open_workspace(
        "smoke", results=tmp_path / "results", runs=tmp_path / "runs", device="cpu"
    )
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(distributed, "agreed", lambda value: value)
    with pytest.raises(
        ValueError, match="norm=batch: its statistics would be of a process's share of a batch"
    ):
        run(experiment_for(workspace, data, "SSD300-VGG16"), workspace)


def test_accumulated_parts_make_the_step_of_the_whole(tmp_path):
    """Where every part has as many objects; and a batch that does not divide is refused."""
    changes = []
    images, targets = scenes((0, 1, 2, 3))
    for target in targets:
        target["boxes"], target["labels"] = torch.tensor([[10.0, 10.0, 50.0, 40.0]]), torch.tensor([1])
    for parts in (1, 2):
        torch.manual_seed(0)
        step = build_student(settings("SSD300-VGG16"), CLASSES, "none")
        before = [p.detach().clone() for p in step.parameters()]
        pieces = [(images, targets)] if parts == 1 else [(images[:2], targets[:2]), (images[2:], targets[2:])]
        e = dataclasses.replace(SGD, accumulate=parts)
        log = fit(
            e,
            1,
            TrainingStep(step).trained,
            lambda start, pieces=pieces: pieces,
            TrainingStep(step),
            tmp_path / str(parts),
            "cpu",
        )
        assert [row["step"] for row in log] == [1]
        changes.append([p.detach() - b for p, b in zip(step.parameters(), before, strict=True)])
    assert max(float(c.abs().max()) for c in changes[0]) > 1e-3
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*changes, strict=True))
    with pytest.raises(ValueError, match=r"batch_size=6 cannot be divided among 4 process\(es\) and 1 part"):
        training_batches(None, None, 0, 6, 0, 1, world=4)


def test_data_that_changed_since_an_interruption_are_refused(tmp_path):
    root = make_badges(tmp_path / "photos", train=6, val=2, test=0)
    workspace, data = open_workspace(
        "smoke", root, results=tmp_path / "results", runs=tmp_path / "runs", device="cpu"
    )
    e = experiment_for(workspace, data, "SSD300-VGG16", backbone_weights="none", steps=4)
    folder = run_folder(e, workspace)
    require_same_data(e, data, folder)
    (folder / "step-00000001.0123456789abcdef.pt").write_bytes(b"a checkpoint")
    require_same_data(e, data, folder)  # nothing changed
    image = data.splits["train"].image_folder / data.splits["train"].annotations["images"][0]["file_name"]
    image.write_bytes(image.read_bytes() + b"0")
    with pytest.raises(
        DataError, match="its image files changed since SSD300-VGG16.baseline.s0 was interrupted"
    ):
        require_same_data(e, data, folder)
    path = root / "annotations/instances_val2017.json"
    path.write_text(path.read_text() + " ")
    later = load_folder(root)
    other = experiment_for(workspace, later, "SSD300-VGG16", backbone_weights="none", steps=4)
    assert other.hash() != e.hash()
    with pytest.raises(DataError, match=f"its annotations changed .* or delete {folder} to start anew"):
        require_same_data(other, later, run_folder(other, workspace))
    require_same_data(
        other.replace(steps=5), later, run_folder(other.replace(steps=5), workspace)
    )  # another run has nothing to go on from
    assert (folder / "step-00000001.0123456789abcdef.pt").read_bytes() == b"a checkpoint"


def test_the_papers_scale_on_real_images_in_two_processes(shared, tmp_path):
    """160 photographs of COCO at published width and resolution, bf16: one step, every image evaluated."""
    settings = [
        "--scale",
        "coco",
        "--device",
        "cpu",
        "--data",
        str(shared / "data" / "coco-tiny"),
        "--set",
        "backbone_weights=none",
        "teacher_pretrained=false",
        "steps=1",
        "batch_size=4",
        "teacher_steps=1",
        "teacher_images=2",
        "workers=1",
        "score_threshold=0.3",
    ]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "c2dlib",
        "run",
        "SSD300-VGG16",
        "ours",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *settings],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "results/coco-tiny-coco/records").glob("*.json")
    record = read_record(path)
    assert (
        record.status == "done"
        and record.processes == 2
        and record.experiment["lr"] == pytest.approx(0.002 * 4 / 64)
    )
    assert record.data["images"] == {"train": 80, "val": 80} and {"KDcls", "loc", "KDloc"} <= set(
        record.curve
    )
