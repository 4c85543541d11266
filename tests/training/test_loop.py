"""Training: schedule, optimizer, and that an interruption leaves no trace in the weights."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from c2dlib.training import loop
from c2dlib.training.checkpoints import load_checkpoint
from c2dlib.training.loop import (
    NonFiniteLoss,
    OptimizerSettings,
    build_optimizer,
    fit,
    learning_rate_factor,
)


def settings(**changes):
    defaults = {
        "lr": 0.05,
        "seed": 3,
        "optimizer": "sgd",
        "weight_decay": 1e-3,
        "momentum": 0.9,
        "schedule": "step",
        "milestones": (0.5, 0.75),
        "warmup": 4,
        "clip": 1.0,
    }
    return OptimizerSettings(**defaults | changes)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, [0.25, 0.5, 0.75, 1, 0.1, 0.1, 0.01, 0.01]),
        ({"warmup": 0, "milestones": ()}, [1] * 8),
        (
            {"schedule": "cosine", "warmup": 0},
            [1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060],
        ),
        (
            {"schedule": "cosine", "warmup": 2},
            [0.5, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060],
        ),
    ],
)
def test_schedule_by_hand(changes, expected):
    factors = [learning_rate_factor(settings(**changes), step, 8) for step in range(8)]
    assert factors == pytest.approx(expected, abs=1e-6)


def test_the_optimizer_has_the_trained_parameters_and_no_others():
    student, adapters, teacher = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(3, 2)
    student.bias.requires_grad_(False)
    for name, kind in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)):
        optimizer = build_optimizer(settings(optimizer=name), [student, adapters])
        (group,) = optimizer.param_groups
        assert [id(p) for p in group["params"]] == [
            id(p) for p in (student.weight, adapters.weight, adapters.bias)
        ]
        assert type(optimizer) is kind and (group["lr"], group["weight_decay"]) == (0.05, 1e-3)
        assert not {id(p) for p in group["params"]} & {id(p) for p in teacher.parameters()}


class Toy:
    """A network with batch statistics and dropout; a clock that a step moves by one second."""

    def __init__(self, monkeypatch, folder, steps=25, spoil=lambda step, terms: terms, **changes):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.e, self.folder, self.steps, self.spoil, self.clock = (
            settings(**changes),
            folder,
            steps,
            spoil,
            0.0,
        )
        self.images, self.rates = [], []
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.clock))

    def batches(self, start):
        for step in range(start, self.steps):
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            yield list(x), [{"y": row.sum()} for row in x]

    def losses(self, images, targets):
        self.clock += 1
        self.images.append(images[0])
        x, y = torch.stack(images), torch.stack([t["y"] for t in targets])[:, None]
        out = self.net(x + 0.1 * torch.rand_like(x))
        return self.spoil(self.step(), {"a": (out - y).square().mean(), "b": out.abs().mean()})

    def step(self):
        return int(self.clock) - 1

    def fit(self):
        return fit(self.e, self.steps, {"student": self.net}, self.batches, self.losses, self.folder, "cpu")


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def interrupted_at_13(step, terms):
    if step == 13:
        raise RuntimeError("the power fails")
    return terms


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_equals_uninterrupted(monkeypatch, tmp_path, optimizer):
    whole = Toy(monkeypatch, tmp_path / "whole", optimizer=optimizer)
    log = whole.fit()
    assert [row["step"] for row in log] == [10, 20, 25]
    assert set(log[0]) == {"step", "seconds", "device", "commit", "dirty", "torch", "a", "b"}
    assert [row["seconds"] for row in log] == [1, 1, 1]
    first = Toy(monkeypatch, tmp_path / "parts", spoil=interrupted_at_13, optimizer=optimizer)
    with pytest.raises(RuntimeError, match="power"):
        first.fit()
    assert load_checkpoint(tmp_path / "parts")["step"] == 13
    second = Toy(monkeypatch, tmp_path / "parts", optimizer=optimizer)
    torch.manual_seed(99)
    nn.init.zeros_(second.net[0].weight)  # whatever it starts from, the checkpoint counts
    again = second.fit()
    assert len(second.images) == 25 - 13 + 1  # once more with the last weights
    assert torch.equal(second.images[0], whole.images[13])
    states = [load_checkpoint(tmp_path / name) for name in ("whole", "parts")]
    assert all(same(states[0][k], states[1][k]) for k in ("step", "modules", "optimizer"))
    assert same(dict(whole.net.state_dict()), dict(second.net.state_dict()))
    strip = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows] for rows in (log, again)]
    assert strip[0] == strip[1]
    third = Toy(monkeypatch, tmp_path / "parts", optimizer=optimizer)
    assert third.fit() == again and not third.images  # finished: nothing is trained
    assert same(dict(third.net.state_dict()), dict(whole.net.state_dict()))


def test_any_process_saves_what_it_trains_alone(monkeypatch, tmp_path):
    """Whichever process of several has the lock trains a classifier."""
    monkeypatch.setattr(loop.distributed, "rank", lambda: 1)
    with pytest.raises(RuntimeError, match="power"):
        Toy(monkeypatch, tmp_path, spoil=interrupted_at_13).fit()
    assert load_checkpoint(tmp_path)["step"] == 13


def test_seconds_per_step_after_a_resumption(monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="power"):
        Toy(monkeypatch, tmp_path, spoil=interrupted_at_13).fit()
    assert [row["seconds"] for row in Toy(monkeypatch, tmp_path).fit()] == [1, 1, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(monkeypatch, tmp_path, value):
    toy = Toy(
        monkeypatch,
        tmp_path,
        spoil=lambda step, terms: terms | ({"b": terms["b"] * value} if step == 5 else {}),
    )
    with pytest.raises(NonFiniteLoss, match="step 5: loss term b is (nan|inf)"):
        toy.fit()
    state = load_checkpoint(tmp_path)
    assert state["step"] == 5 and all(v.isfinite().all() for v in state["modules"]["student"].values())


def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint(monkeypatch, tmp_path):
    """The root of 0 x |w| is a finite loss whose gradient is 0 / 0."""
    toy = Toy(
        monkeypatch,
        tmp_path,
        spoil=lambda step, terms: (
            terms | ({"b": (0 * toy.net[0].weight.abs().sum()).sqrt()} if step == 5 else {})
        ),
    )
    with pytest.raises(NonFiniteLoss, match="step 5"):
        toy.fit()
    assert all(v.isfinite().all() for v in load_checkpoint(tmp_path)["modules"]["student"].values())


def test_weights_that_are_not_finite_never_reach_a_checkpoint(monkeypatch, tmp_path):
    """The update after a finite gradient can overflow; the loss tells it one step later."""
    toy, update = Toy(monkeypatch, tmp_path), loop._update

    def overflowing(optimizer, step):
        update(optimizer, step)
        if step == 5:
            nn.init.constant_(toy.net[0].weight, math.inf)

    monkeypatch.setattr(loop, "_update", overflowing)
    with pytest.raises(NonFiniteLoss, match="step 6"):
        toy.fit()
    state = load_checkpoint(tmp_path)
    assert state["step"] == 5 and all(v.isfinite().all() for v in state["modules"]["student"].values())


def test_a_line_is_learnt(tmp_path):
    torch.manual_seed(0)
    line, x = nn.Linear(1, 1), torch.linspace(-1, 1, 16)[:, None]
    done = []

    def losses(images, targets):
        return {"error": (line(torch.stack(images)) - torch.stack([t["y"] for t in targets])).square().mean()}

    fit(
        settings(optimizer="adamw", schedule="cosine", weight_decay=0.0),
        200,
        {"line": line},
        lambda start: ((list(x), [{"y": 2 * v - 1} for v in x]) for _ in range(start, 200)),
        losses,
        tmp_path,
        "cpu",
        lambda step, of: done.append((step, of)),
    )
    assert line.weight.item() == pytest.approx(2, abs=0.02) and line.bias.item() == pytest.approx(
        -1, abs=0.02
    )
    assert done == [(i, 200) for i in range(1, 201)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="DEVICE=cuda: not available here"):
        loop.accelerate("cuda", "no")


def test_the_fused_update_is_that_of_plain_adamw():
    torch.manual_seed(0)
    first, second = nn.Linear(5, 3), nn.Linear(5, 3)
    second.load_state_dict(first.state_dict())
    settings = loop.OptimizerSettings(lr=0.01)
    fused = loop.build_optimizer(settings, [first])
    plain = torch.optim.AdamW(second.parameters(), lr=0.01, weight_decay=settings.weight_decay, fused=False)
    assert fused.defaults["fused"] and not plain.defaults["fused"]
    for x in torch.randn(10, 4, 5):
        for layer, optimizer in ((first, fused), (second, plain)):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
