"""The cost of distillation: time against a plain step, and peak memory."""

from types import SimpleNamespace

import pytest
import torch

from c2dlib.cluster.cost import random_step, scene
from c2dlib.config.experiment import experiment
from c2dlib.training import step_cost
from c2dlib.training.step_cost import PeakMemory, distillation_cost, relative_cost


def test_relative_cost_by_two_losses_of_known_time(monkeypatch):
    clock, weight = [0.0], torch.ones(1, requires_grad=True)
    monkeypatch.setattr(step_cost, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def loss_that_takes(seconds):
        def loss():
            clock[0] += seconds
            return weight.sum()

        return loss

    ratio = relative_cost(loss_that_takes(0.01), loss_that_takes(0.03), "cpu", "no", turns=3)
    assert ratio == pytest.approx(3)


def test_the_cost_is_that_of_a_teacher_that_reads_every_crop():
    step, teacher = random_step(experiment("smoke", "SSD300-VGG16", "KDcls", remembered_crops=9))
    batch, read, crops = scene(1), teacher.read, []
    teacher.read = lambda of_step: crops.append(len(of_step)) or read(of_step)
    step(*batch)
    step(*batch)
    assert crops == [1] * 7  # in the first step, one at a time
    distillation_cost(step, batch, "cpu", "no", turns=1)
    assert crops[7:] == [7] * 2  # the turn before the first, and the first


def test_peak_memory_is_of_the_time_since_or_not_told(monkeypatch):
    peak = PeakMemory("cpu")
    if peak():
        before, block = peak(), torch.ones(25_000_000)  # 100 MB
        assert peak() > before + 80
        del block
        assert PeakMemory("cpu")() < before + 60
    monkeypatch.setattr(step_cost.Path, "write_text", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert PeakMemory("cpu")() == 0  # a peak of the whole process's life would say nothing of a run
