"""A teacher from any data set of images and targets."""

from itertools import pairwise

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torchvision.transforms.v2.functional import to_dtype

import c2dlib
from c2dlib.teacher.classifier import build_classifier


def squares(count: int = 8, kind: str = "tensor") -> list[tuple]:
    """Images 32 x 32 of one red or blue square, class 1 or 2; the last one has no box."""
    generator, pairs = torch.Generator().manual_seed(0), []
    for i in range(count):
        image, label = torch.rand(3, 32, 32, generator=generator) * 60, 1 + i % 2
        image[2 * (label - 1), 8:24, 6:22] = 255
        pixels = image.to(torch.uint8)
        image = {
            "tensor": pixels,
            "float": to_dtype(pixels, scale=True),
            "PIL": PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy()),
        }[kind]
        target = {"boxes": torch.tensor([[6.0, 8, 22, 24]]), "labels": torch.tensor([label]), "image_id": i}
        pairs.append((image, target))
    pairs[-1][1].update(boxes=np.zeros((0, 4), np.float32), labels=torch.zeros(0, dtype=torch.int64))
    return pairs


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_classifier("resnet18", 2, 16, width=0.125)


def test_a_classifier_learns_the_crops_and_becomes_a_frozen_teacher():
    steps = []
    teacher = c2dlib.train_teacher(
        small(),
        squares(),
        size=16,
        epochs=15,
        images=4,
        lr=3e-3,
        progress=lambda done, of: steps.append((done, of)),
    )
    assert steps[-1] == (30, 30) and all(b[0] == a[0] + 1 for a, b in pairwise(steps))
    assert isinstance(teacher, c2dlib.Teacher) and (teacher.num_classes, teacher.size) == (2, 16)
    assert not any(p.requires_grad for p in teacher.parameters())
    crop = torch.full((2, 3, 16, 16), 30.0)
    crop[0, 0], crop[1, 2] = 255, 255
    assert teacher.read(crop).logits.argmax(1).tolist() == [0, 1]


def test_the_users_random_numbers_and_accelerator_stay_as_they_are():
    """Else three seeds of a loop would draw the same numbers, and an Accelerator lose its precision."""
    AcceleratorState._reset_state(reset_partial_state=True)  # of trainings before this test
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    try:
        classifier = small()
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        c2dlib.train_teacher(classifier, squares(), size=16, epochs=1, images=4)
        assert torch.equal(torch.rand(3), expected)
        assert accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_images_of_any_kind_are_the_same_images(tmp_path):
    """Also: an interrupted training resumes from the folder's checkpoint."""
    given = {"size": 16, "epochs": 1, "images": 4}
    teachers = [c2dlib.train_teacher(small(), squares(kind=kind), **given) for kind in ("float", "PIL")]
    teachers.append(c2dlib.train_teacher(small(), squares(), folder=tmp_path, **given))
    teachers.append(c2dlib.train_teacher(small(), squares(), folder=tmp_path, **given))
    states = [teacher.state_dict() for teacher in teachers]
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())


def test_wrong_labels_and_empty_data_are_named():
    pairs = squares()
    pairs[0][1]["labels"] = torch.tensor([3])
    with pytest.raises(ValueError, match=r"labels must be 1..2.*got \d..3"):
        c2dlib.train_teacher(small(), pairs, size=16, epochs=1, images=8)
    with pytest.raises(ValueError, match="empty"):
        c2dlib.train_teacher(small(), [])
    nothing = [squares()[-1]] * 2  # no box in any image: the weights stay finite
    teacher = c2dlib.train_teacher(small(), nothing, size=16, epochs=1, images=2)
    assert all(value.isfinite().all() for value in teacher.state_dict().values())
