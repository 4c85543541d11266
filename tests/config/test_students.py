"""The traits of a family are those of the detectors that are built."""

import pytest
import torch

from c2dlib.config.experiment import experiment
from c2dlib.config.students import ARCHITECTURES, FAMILIES
from c2dlib.detectors.build import build_student


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_traits_are_those_of_the_detector(family):
    student = next(name for name, architecture in ARCHITECTURES.items() if architecture.family is family)
    step = build_student(experiment("smoke", student, backbone_weights="none"), 3, "none").train()
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])}]
    if family.masks:
        targets[0]["masks"] = torch.ones(1, 64, 64, dtype=torch.uint8)
    out = step([torch.rand(3, 64, 64)], targets)
    assert step.one_stage == family.one_stage
    assert (out.positives.background_logits is not None) == family.softmax
    assert ("loss_mask" in out.task_losses) == family.masks


def test_the_classifier_of_ssd_is_trained_without_sigmoids():
    assert [family.sigmoid_teacher for family in FAMILIES] == [False, True, True, True, True]
