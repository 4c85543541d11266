from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from c2dlib.detectors.train_output import TrainOutput
from c2dlib.distillation.imitation.common import FromDetector, Necks
from c2dlib.distillation.imitation.fkd import FKD, NonLocal, channel_attention, spatial_attention

WEIGHTS = {False: (7e-5, 4e-3, 4e-3, 7e-5), True: (4.2e-4, 2.4e-2, 2.4e-2, 4.2e-4)}
TAU = {False: 0.5, True: 0.1}
NAMES = ("fkd_feature", "fkd_channel", "fkd_spatial", "fkd_nonlocal")


class Backbone(nn.Module):
    """Levels 0, 1, ... and "pool", each half the size of the one before."""

    def __init__(self, channels):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, c, 1) for c in channels)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.norm(x)
        maps = OrderedDict()
        for i, conv in enumerate(self.convs):
            maps[str(i)] = conv(nn.functional.avg_pool2d(x, 2**i))
        maps["pool"] = maps[str(i)][:, :, ::2, ::2]
        return maps


class Detector(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.backbone = Backbone(channels)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def step(images, features):
    return TrainOutput(images, torch.zeros(3), torch.ones(3), [], features, {}, None)


def make(student, teacher, one_stage, size=16, batch=2):
    """An FKD and a step whose student features are random leaves; "pool" stands last, as in an FPN."""
    fkd = FromDetector(Detector(teacher), FKD(Necks(student, teacher, one_stage)))
    features = {
        str(i): torch.randn(batch, c, size >> i, size >> i, requires_grad=True) for i, c in enumerate(student)
    }
    features["pool"] = torch.randn(batch, student[-1], 1, 1)
    return fkd, step(torch.randn(batch, 3, size, size), features)


def identity(fkd):
    with torch.no_grad():
        for level in fkd.method.levels:
            for conv in (level.feature, level.relation):
                nn.init.dirac_(conv.weight)
            nn.init.eye_(level.channel.weight)
            nn.init.dirac_(level.spatial.weight)
            for layer in (level.feature, level.relation, level.channel, level.spatial):
                nn.init.zeros_(layer.bias)


def array(x):
    return x.detach().double().numpy()


def np_softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def np_conv1(layer, x):
    return np.einsum("oc,nchw->nohw", array(layer.weight)[:, :, 0, 0], x) + array(layer.bias)[:, None, None]


def np_conv3(layer, x):
    kernel, padded = array(layer.weight)[0, 0], np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    h, w = x.shape[2:]
    shifted = (kernel[i, j] * padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3))
    return sum(shifted) + array(layer.bias)


def reference(level, s, t, one_stage):
    """Section 3.4's four norms of one level, with NL = identity (as at the start of training)."""
    tau, (n, _, h, w) = TAU[one_stage], s.shape

    def spatial(x):
        return h * w * np_softmax(np.abs(x).mean(1).reshape(n, -1) / tau, 1).reshape(n, 1, h, w)

    def channel(x):
        return x.shape[1] * np_softmax(np.abs(x).mean((2, 3)) / tau, 1)[:, :, None, None]

    mask = (spatial(s) + spatial(t)) / 2
    if one_stage:
        mask = mask * (channel(t) if s.shape[1] != t.shape[1] else (channel(s) + channel(t)) / 2)
    linear = s.mean((2, 3)) @ array(level.channel.weight).T + array(level.channel.bias)
    differences = (
        np.sqrt(mask) * (t - np_conv1(level.feature, s)),
        t.mean((2, 3)) - linear,
        t.mean(1, keepdims=True) - np_conv3(level.spatial, s.mean(1, keepdims=True)),
        t - np_conv1(level.relation, s),
    )
    return [np.linalg.norm(d.ravel()) for d in differences]


def test_attention_by_hand():
    # Channel means of |x|: 0, tau ln 2, 0, tau ln 4 at the four cells -> softmax (1, 2, 1, 4) / 8.
    tau, ln2 = 0.5, float(np.log(2))
    cells = torch.tensor([[0.0, tau * ln2], [0.0, tau * 2 * ln2]])
    x = torch.stack([2 * cells, 0 * cells])[None]
    torch.testing.assert_close(spatial_attention(-x, tau), torch.tensor([[[[0.5, 1.0], [0.5, 2.0]]]]))
    # Channel means: 2 (tau ln 2 + 2 tau ln 2) / 4 = 1.5 tau ln 2 and 0 -> 2^1.5 : 1.
    r = 2**1.5
    expected = torch.tensor([2 * r / (1 + r), 2 / (1 + r)])
    torch.testing.assert_close(channel_attention(-x, tau).flatten(), expected)


def test_attention_has_mean_one_per_image():
    x = torch.randn(3, 6, 5, 7)
    assert spatial_attention(x, 0.1).shape == (3, 1, 5, 7) and channel_attention(x, 0.1).shape == (3, 6, 1, 1)
    torch.testing.assert_close(spatial_attention(x, 0.1).mean((1, 2, 3)), torch.ones(3))
    torch.testing.assert_close(channel_attention(x, 0.1).mean((1, 2, 3)), torch.ones(3))


@pytest.mark.parametrize("one_stage", [False, True])
@pytest.mark.parametrize("student", [[4, 8, 8], [8, 8, 8], [6, 6, 6]])
def test_terms_match_numpy(one_stage, student):
    fkd, out = make(student, [8, 8, 8], one_stage)
    terms = fkd(out)
    teacher_maps = fkd.teacher.backbone(out.images)
    norms = np.sum(
        [
            reference(level, array(out.features[str(i)]), array(teacher_maps[str(i)]), one_stage)
            for i, level in enumerate(fkd.method.levels)
        ],
        axis=0,
    )
    assert tuple(terms) == NAMES
    np.testing.assert_allclose([v.item() for v in terms.values()], norms * WEIGHTS[one_stage], rtol=1e-5)


@pytest.mark.parametrize("pool, h, w", [(2, 4, 6), (4, 3, 9), (8, 1, 1)])
def test_nonlocal_matches_the_quadratic_form(pool, h, w):
    block = NonLocal(8, 3, pool).eval()
    x = torch.randn(2, 8, h, w)
    torch.testing.assert_close(block(x), x)  # identity at the start
    for p in (block.norm.weight, block.norm.bias, block.norm.running_mean):
        nn.init.normal_(p)
    block.norm.running_var.uniform_(0.5, 2)
    a, kh, kw = array(x), min(pool, h), min(pool, w)

    def pooled(m):
        rows, columns = h // kh, w // kw
        m = m[:, :, : rows * kh, : columns * kw].reshape(2, 3, rows, kh, columns, kw)
        return m.max((3, 5)).reshape(2, 3, -1)

    query = np_conv1(block.theta, a).reshape(2, 3, -1)
    keys, values = pooled(np_conv1(block.phi, a)), pooled(np_conv1(block.g, a))
    similarity = np.einsum("ndq,ndk->nqk", query, keys) / keys.shape[2]
    mixed = np.einsum("nqk,ndk->ndq", similarity, values).reshape(2, 3, h, w)
    y = np_conv1(block.project, mixed)
    mean, var, scale, bias = (
        array(p)[:, None, None]
        for p in (block.norm.running_mean, block.norm.running_var, block.norm.weight, block.norm.bias)
    )
    expected = a + (y - mean) / np.sqrt(var + block.norm.eps) * scale + bias
    np.testing.assert_allclose(array(block(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level, width, pool", [(0, 4, 8), (1, 4, 4), (2, 8, 2), (3, 8, 2)])
def test_nonlocal_widths(level, width, pool):
    fkd = FKD(Necks([16] * 4, [16] * 4, False))
    for block in (fkd.levels[level].student_nonlocal, fkd.levels[level].teacher_nonlocal):
        assert block.theta.out_channels == width and block.pool == pool


@pytest.mark.parametrize("one_stage", [False, True])
def test_nothing_to_learn_from_oneself(one_stage):
    fkd, out = make([8, 8], [8, 8], one_stage)
    identity(fkd)
    features = {k: v.clone().requires_grad_() for k, v in fkd.teacher.backbone(out.images).items()}
    terms = fkd(step(out.images, features))
    for name, term in terms.items():
        assert 0 <= term.item() < 1e-5, name  # weights x sqrt(eps) and rounding
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fkd.method.parameters())
    assert all(features[k].grad.isfinite().all() for k in ("0", "1"))


def test_gradients_reach_adapters_and_student_only():
    fkd, out = make([4, 8], [8, 8], True)
    for level in fkd.method.levels:  # past the zero start, so that the inside of NL has a gradient too
        nn.init.ones_(level.student_nonlocal.norm.weight)
        nn.init.ones_(level.teacher_nonlocal.norm.weight)
    images = out.images.clone().requires_grad_()
    sum(fkd(step(images, out.features)).values()).backward()
    dead = {n for n, p in fkd.method.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    zero = {n for n, p in fkd.method.named_parameters() if n.endswith("weight") and not p.grad.any()}
    assert not dead and not zero
    assert out.features["0"].grad.any() and out.features["1"].grad.any()
    assert images.grad is None and all(p.grad is None for p in fkd.teacher.parameters())


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("one_stage", [False, True])
def test_one_cell_maps_and_unequal_channels_are_finite(batch, one_stage):
    fkd, out = make([2, 4, 6], [8, 4, 3], one_stage, size=4, batch=batch)
    terms = fkd(out)
    sum(terms.values()).backward()
    assert all(v.isfinite() and v.ndim == 0 for v in terms.values())
    assert all(p.grad.isfinite().all() for p in fkd.method.parameters())


def test_fp32_under_autocast():
    fkd, out = make([8], [8], True)
    with torch.autocast("cpu", torch.bfloat16):
        terms = fkd(out)
        half = fkd(step(out.images, {k: v.bfloat16() for k, v in out.features.items()}))
    plain = fkd(out)
    for name in NAMES:
        assert terms[name].dtype == half[name].dtype == torch.float32
        torch.testing.assert_close(terms[name], plain[name], rtol=1e-2, atol=0)  # the teacher alone was bf16


def test_the_factor_multiplies_every_term():
    fkd, out = make([8, 8], [16, 16], one_stage=True)
    weak = FromDetector(fkd.teacher, FKD(Necks([8, 8], [16, 16], True), factor=0.25))
    weak.method.load_state_dict(fkd.method.state_dict())
    plain, less = fkd(out), weak(out)
    for name in NAMES:
        assert less[name].item() == pytest.approx(0.25 * plain[name].item(), rel=1e-5) and less[name] > 0
