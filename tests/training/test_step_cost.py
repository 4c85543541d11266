"""The cost of distillation: time against a plain step, and peak memory."""

from types import SimpleNamespace

import pytest
import torch

from c2dlib.training import step_cost
from c2dlib.training.step_cost import PeakMemory, relative_cost


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


def test_peak_memory_is_of_the_time_since_or_not_told(monkeypatch):
    peak = PeakMemory("cpu")
    if peak():
        before, block = peak(), torch.ones(25_000_000)  # 100 MB
        assert peak() > before + 80
        del block
        assert PeakMemory("cpu")() < before + 60
    monkeypatch.setattr(step_cost.Path, "write_text", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert PeakMemory("cpu")() == 0  # a peak of the whole process's life would say nothing of a run
