"""Training batches as a function of (seed, step)."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from c2dlib.config.experiment import experiment
from c2dlib.data.augment import plain_transform, train_transform
from c2dlib.data.badges import make_badges
from c2dlib.data.batches import EndlessSamples, combine_seeds, training_batches
from c2dlib.data.coco import load_folder
from tests.training.test_workers import alive

ROOT = Path(__file__).resolve().parents[2]
SSD = train_transform(experiment("smoke", "SSD300-VGG16", photometric=True, zoom_out=4.0, iou_crop=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_badges(tmp_path_factory.mktemp("data") / "badges", train=6, val=2, test=0)


@pytest.fixture(scope="module")
def split(root):
    return load_folder(root).splits["train"]


def same(a, b):
    (images, targets), (others, other_targets) = a, b
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(images, others, strict=True)) and all(
        torch.equal(s[k], t[k]) for s, t in zip(targets, other_targets, strict=True) for k in s
    )


def test_combined_seeds_are_splitmix64():
    assert (
        combine_seeds(0) == 0xE220A8397B1DCDAF >> 1
    )  # the published first outputs for the seeds 0 and 1234567
    assert combine_seeds(1234567) == 6457827717110365317 >> 1
    assert (
        combine_seeds(1, 2, 3) == 3851293329796251419 and combine_seeds(3, 2, 1) == 7716143592125757362
    )  # worked in numpy
    assert (
        len({combine_seeds(seed, part, i) for seed in range(5) for part in (1, 2, 3) for i in range(200)})
        == 3000
    )


def test_starting_late_equals_continuing(split):
    whole = list(training_batches(split, SSD, seed=3, batch_size=4, start=0, steps=5))
    torch.manual_seed(99)  # whatever happened before
    torch.rand(7)
    late = list(training_batches(split, SSD, seed=3, batch_size=4, start=2, steps=5))
    assert len(whole) == 5 and len(late) == 3
    assert all(same(a, b) for a, b in zip(whole[2:], late, strict=True))


def test_worker_processes_change_nothing(split):
    alone = list(training_batches(split, SSD, seed=3, batch_size=2, start=1, steps=3))
    helped = list(training_batches(split, SSD, seed=3, batch_size=2, start=1, steps=3, workers=2))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


TRAINING = """
import multiprocessing, time
import torch
from c2dlib.data.batches import training_batches
class Split:
    def with_boxes(self): return [0, 1]
    def __getitem__(self, i): return torch.zeros(3, 8, 8), {}
def as_it_is(image, target): return image, target
if __name__ == "__main__":
    batches = iter(training_batches(Split(), as_it_is, 0, 2, 0, 1000, workers=2))
    next(batches)
    time.sleep(0.5)  # until the loaders wait for their next batch
    print([process.pid for process in multiprocessing.active_children()], flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_loader_outlives_a_training_that_is_killed(tmp_path):
    (tmp_path / "training.py").write_text(TRAINING)
    training = subprocess.Popen(
        [sys.executable, str(tmp_path / "training.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    loaders = json.loads(training.stdout.readline())
    assert len(loaders) == 2 and all(map(alive, loaders))
    training.kill()
    training.wait()
    deadline = time.monotonic() + 2
    while any(map(alive, loaders)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, loaders))


def test_seeds_and_epochs_differ(split):
    def first(seed, start):
        return next(iter(training_batches(split, SSD, seed, batch_size=6, start=start, steps=start + 1)))

    assert same(first(0, 0), first(0, 0))
    assert not same(first(0, 0), first(1, 0)) and not same(first(0, 0), first(0, 1))
    orders = [EndlessSamples(split, SSD, seed).order(epoch) for seed in range(3) for epoch in range(3)]
    assert len(set(map(tuple, orders))) > 5


def test_an_epoch_shows_each_image_once(split):
    fingerprints = sorted(float(split[i][0].double().sum()) for i in range(6))
    assert len(set(fingerprints)) == 6
    for start in (0, 3, 6):  # batches of 2: epochs begin at 0, 3, 6
        batches = training_batches(
            split, plain_transform(), seed=5, batch_size=2, start=start, steps=start + 3
        )
        seen = [float((image.double() * 255).round().sum()) for images, _ in batches for image in images]
        assert sorted(seen) == fingerprints


def test_images_without_boxes_are_left_out(root, tmp_path):
    folder = make_badges(tmp_path / "badges", train=6, val=2, test=0)
    path = folder / "annotations" / "instances_train2017.json"
    data = json.loads(path.read_text())
    bare, crowded = (image["id"] for image in data["images"][1:3])
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != bare]
    for annotation in data["annotations"]:
        if annotation["image_id"] == crowded:
            annotation["iscrowd"] = 1
    path.write_text(json.dumps(data))
    split = load_folder(folder).splits["train"]
    samples = EndlessSamples(split, plain_transform(), seed=0)
    assert len(split) == 6 and sorted(samples.items) == [0, 3, 4, 5]
    assert all(len(samples[p][1]["boxes"]) for p in range(8))


def test_augmented_samples_are_what_detectors_take(split):
    flipped = 0
    for images, targets in training_batches(split, SSD, seed=1, batch_size=6, start=0, steps=4):
        for image, target in zip(images, targets, strict=True):
            height, width = image.shape[-2:]
            boxes = target["boxes"]
            assert type(image) is type(boxes) is torch.Tensor and image.dtype == torch.float32
            assert 0 <= image.min() and image.max() <= 1 and len(boxes) == len(target["labels"])
            assert (boxes >= 0).all() and (boxes <= torch.tensor([width, height] * 2)).all()
            assert (boxes[:, 2:] - boxes[:, :2] >= 1).all() and set(target) == {"boxes", "labels"}
    plain, flip = plain_transform(), train_transform(experiment("smoke", "FasterRCNN-R50"))
    a, b = EndlessSamples(split, plain, 7), EndlessSamples(split, flip, 7)
    for p in range(6):
        (image, target), (other, moved) = a[p], b[p]
        if not torch.equal(image, other):
            x1, y1, x2, y2 = target["boxes"].unbind(1)
            torch.testing.assert_close(other, image.flip(-1))
            torch.testing.assert_close(moved["boxes"], torch.stack([128 - x2, y1, 128 - x1, y2], 1))
            flipped += 1
    assert 0 < flipped < 6


def test_masks_go_with_their_images_and_boxes(root):
    """Each box drawn as its own mask: after any flip the mask's extent is still the box."""
    folder = load_folder(root)
    path = root / "annotations/instances_train2017.json"
    before = path.read_text()
    data = json.loads(before)
    for row in data["annotations"]:
        x, y, w, h = row["bbox"]
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    path.write_text(json.dumps(data))
    try:
        split = folder.splits["train"].with_masks()
    finally:
        path.write_text(before)
    e = experiment("smoke", "MaskRCNN-R50", vertical_flip=True)
    seen = 0
    for _, targets in training_batches(split, train_transform(e), 0, 4, 0, 3):
        for target in targets:
            for mask, box in zip(target["masks"], target["boxes"], strict=True):
                y, x = torch.where(mask > 0)
                extent = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
                assert (extent - box).abs().max() <= 1.0
                seen += 1
    assert seen > 20
