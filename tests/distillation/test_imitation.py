"""Detector-to-detector methods: values by hand or from another formula, and what all must keep."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.special import log_softmax, softmax
from torch import nn
from torchvision.models.detection._utils import BoxCoder, Matcher

from c2dlib.config.experiment import experiment
from c2dlib.config.methods import IMITATIONS
from c2dlib.config.students import ARCHITECTURES, STUDENTS
from c2dlib.detectors.build import build_student
from c2dlib.detectors.train_output import Head, TrainOutput
from c2dlib.distillation.build import IMITATION_CLASSES, build_imitation, neck_channels
from c2dlib.distillation.imitation import chen_kd, fgfi, gid
from c2dlib.distillation.imitation.common import SIDE, FromDetector, Necks, TeacherStudentBatch, level_of
from c2dlib.distillation.imitation.defeat import inside_objects
from c2dlib.distillation.imitation.fgfi import near_objects
from c2dlib.training.run import detector_teacher
from tests.detectors.test_detectors import scenes

FEATURES_ONLY = ["FKD", "DeFeat", "FitNets", "AT", "PKD", "CWD", "FGFI"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def array(x):
    return x.detach().double().numpy()


def output(boxes, size=32, levels=(8, 4), heads=None):
    """A step on images size x size whose neck has a map of each side in ``levels``; boxes per image."""
    targets = [{"boxes": torch.tensor(b, dtype=torch.float32).reshape(-1, 4)} for b in boxes]
    features = {str(i): torch.zeros(len(boxes), 3, side, side) for i, side in enumerate(levels)}
    return TrainOutput(
        torch.zeros(len(boxes), 3, size, size),
        torch.zeros(3),
        torch.ones(3),
        targets,
        features,
        {},
        None,
        heads or dict,
    )


def batch_of(out, channels=3, teacher_channels=3):
    return TeacherStudentBatch(
        out,
        {
            k: (
                torch.randn(len(m), channels, *m.shape[2:], requires_grad=True),
                torch.randn(len(m), teacher_channels, *m.shape[2:]),
            )
            for k, m in out.features.items()
        },
        {},
    )


def built(name, channels=3, teacher_channels=3, levels=2, one_stage=False, factor=1.0):
    return IMITATION_CLASSES[name](Necks([channels] * levels, [teacher_channels] * levels, one_stage), factor)


def necks_of(step, teacher, anchor_scale=1.0):
    channels = [neck_channels(model, step.one_stage) for model in (step.model, teacher)]
    return Necks(*channels, step.one_stage, anchor_scale)


def to_identity(method):
    """Adapters that pass the student's maps through."""
    for layer in method.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)
    return method


def the_same(pair):
    return replace(pair, levels={k: (t.clone().requires_grad_(), t) for k, (_, t) in pair.levels.items()})


# Values


def test_fitnets_by_hand():
    pair = batch_of(output([[]] * 2))
    expected = np.mean([0.5 * np.mean((array(s) - array(t)) ** 2) for s, t in pair.maps()])
    assert to_identity(built("FitNets"))(pair)["fitnets"].item() == pytest.approx(expected, rel=1e-5)


def test_attention_transfer_by_hand():
    """Student (3, 1), teacher (0, 2): squares (9, 1), (0, 4), normalised (9, 1) / sqrt 82, (0, 1)."""
    out = replace(output([[]]), features={"0": torch.zeros(1, 1, 1, 2)})
    pair = TeacherStudentBatch(out, {"0": (torch.tensor([[[[3.0, -1]]]]), torch.tensor([[[[0.0, 2]]]]))}, {})
    expected = 250 * ((9 / math.sqrt(82)) ** 2 + (1 / math.sqrt(82) - 1) ** 2) / 2
    assert built("AT", levels=1)(pair)["at"].item() == pytest.approx(expected, rel=1e-5)
    more = replace(pair, levels={"0": (torch.randn(1, 5, 1, 2), torch.randn(1, 9, 1, 2))})
    assert built("AT", levels=1)(more)["at"] > 0  # any channel count


@pytest.mark.parametrize("student, factor", [("RetinaNet-R50", 1), ("FasterRCNN-R50", 2)])
def test_the_levels_of_objects_are_those_of_the_students_pyramid(student, factor):
    """One-stage pyramids begin at stride 8 whatever ``first_level`` says, Faster R-CNN's at first_level."""
    e = experiment("smoke", student, "FGFI").replace(first_level=3)
    step, teacher = (build_student(e, 3, "none") for _ in range(2))
    assert build_imitation(e, step, teacher.model).method.side == pytest.approx(
        SIDE * e.anchor_scale * factor
    )


@pytest.mark.parametrize("one_stage, weight", [(False, 6), (True, 10)])
def test_pkd_is_about_one_minus_the_correlation(one_stage, weight):
    pair = batch_of(output([[]] * 3, levels=(16, 8)))
    expected = 0.0
    for s, t in pair.maps():
        r = [np.corrcoef(array(s)[:, c].ravel(), array(t)[:, c].ravel())[0, 1] for c in range(3)]
        n = s[:, 0].numel()
        expected += np.mean([(1 - x) * (n - 1) / n for x in r])
    assert built("PKD", one_stage=one_stage)(pair)["pkd"].item() == pytest.approx(weight * expected, rel=1e-4)


def test_pkd_sees_no_scale_and_no_offset_of_a_channel():
    pair, method = batch_of(output([[]] * 2)), built("PKD")
    scale, offset = torch.tensor([0.2, 3.0, 50.0])[:, None, None], torch.tensor([-7.0, 0, 100])[:, None, None]
    moved = replace(pair, levels={k: (s * scale + offset, t) for k, (s, t) in pair.levels.items()})
    torch.testing.assert_close(method(moved)["pkd"], method(pair)["pkd"], rtol=1e-4, atol=1e-4)


def test_pkd_looks_at_the_four_finest_levels_and_needs_no_adapter_for_equal_channels():
    pair = batch_of(output([[]] * 2, levels=(16, 8, 4, 2, 1)))
    other = replace(pair, levels=pair.levels | {"4": (pair.levels["4"][0] + 9, pair.levels["4"][1])})
    method = built("PKD", levels=5)
    assert method(pair)["pkd"] == method(other)["pkd"] and not list(method.parameters())
    assert len(list(built("PKD", 3, 4, levels=5).parameters())) == 8  # weight and bias of four


def test_cwd_against_scipy():
    pair = batch_of(output([[]] * 2))
    expected = 0.0
    for s, t in pair.maps():
        p, q = (log_softmax(array(x).reshape(2, 3, -1), axis=2) for x in (s, t))
        expected += (np.exp(q) * (q - p)).sum(2).mean()
    method = built("CWD")
    assert method(pair)["cwd"].item() == pytest.approx(10 * expected, rel=1e-5) and not list(
        method.parameters()
    )


def test_level_of_a_box_by_its_size():
    boxes = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 111, 111], [0, 0, 113, 113], [0, 0, 224, 224], [0, 0, 4000, 4000.0]]
    )
    assert level_of(boxes, 56, 4).tolist() == [0, 0, 1, 2, 3]


def test_defeat_masks_by_hand_partition_the_map():
    """Stride 4 and 8; side 8: boxes under 16 px belong to level 0. A thin one has its top-left cell."""
    out = output([[[4, 8, 13, 17], [9, 1, 10, 12], [0, 0, 32, 17]], []])
    fine, coarse = inside_objects(batch_of(out), 8.0)
    expected = torch.zeros(8, 8)
    expected[2:4, 1:3] = 1  # y 8..17 -> rows 2, 3; x 4..13 -> columns 1, 2
    expected[0, 2] = 1  # x 9..10 is within column 2
    assert torch.equal(fine[0, 0], expected) and not fine[1].any()
    expected = torch.zeros(4, 4)
    expected[0:2, 0:4] = 1
    assert torch.equal(coarse[0, 0], expected)
    pair = batch_of(out)
    method = to_identity(IMITATION_CLASSES["DeFeat"](Necks([3, 3], [3, 3], False, anchor_scale=8 / 56)))
    terms = {k: v.item() for k, v in method(pair).items()}
    inside = outside = 0.0
    for (s, t), mask in zip(pair.maps(), (fine, coarse), strict=True):
        squares, on = 0.5 * (array(s) - array(t)) ** 2, np.broadcast_to(array(mask) > 0, s.shape)
        inside, outside = inside + squares[on].mean() / 2, outside + squares[~on].mean() / 2
    assert terms == pytest.approx({"defeat_objects": 3 * inside, "defeat_background": 12 * outside}, rel=1e-5)


def anchors(size=32, levels=(8, 4), scales=(4.0, 8.0)):
    """One square anchor per cell, level-major, then y, x."""
    rows = []
    for side, scale in zip(levels, scales, strict=True):
        step = size / side
        for y in range(side):
            for x in range(side):
                rows.append([x * step - scale, y * step - scale, x * step + scale, y * step + scale])
    return torch.tensor(rows)


def head_of(boxes, images=2, **fields):
    count = images * len(boxes)
    given = {
        "logits": torch.zeros(count, 1),
        "deltas": torch.zeros(count, 4),
        "labels": torch.zeros(count).long(),
        "targets": torch.zeros(count, 4),
    } | fields
    return Head(
        [boxes] * images, coder=BoxCoder((1.0, 1.0, 1.0, 1.0)), matcher=Matcher(0.5, 0.4, True), **given
    )


def iou(a, b):
    w, h = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)]
    return w * h / (sum(areas) - w * h)


def test_fgfi_mask_by_brute_force_has_a_cell_per_object():
    boxes = [
        [[4, 8, 13, 17], [30, 30, 31, 31], [0, 0, 30, 30]],
        [],
    ]  # the second is far from every anchor's size
    grid = anchors()
    out = output(boxes, heads=lambda: {"rpn": head_of(grid)})
    fine, coarse = near_objects(batch_of(out), 8.0)
    for mask, side, first, mine in ((fine, 8, 0, boxes[0][:2]), (coarse, 4, 64, boxes[0][2:])):
        expected = np.zeros((side, side))
        for box in mine:
            found = np.array([iou(grid[first + i].tolist(), box) for i in range(side * side)])
            on = found > fgfi.PSI * found.max()
            assert on.any()
            expected = np.maximum(expected, on.reshape(side, side))
        assert np.array_equal(array(mask[0, 0]), expected) and not mask[1].any()
    pair = batch_of(out)
    method = to_identity(IMITATION_CLASSES["FGFI"](Necks([3, 3], [3, 3], False, anchor_scale=8 / 56)))
    expected = 0.0
    for (s, t), mask in zip(pair.maps(), (fine, coarse), strict=True):
        on = np.broadcast_to(array(mask) > 0, s.shape)
        expected += 0.5 * ((array(s) - array(t)) ** 2)[on].mean() / 2
    assert method(pair)["fgfi"].item() == pytest.approx(3 * expected, rel=1e-5)


def test_soft_labels_by_hand():
    """softmax: p_t = (3/4, 1/4), p_s = 1/2: 1.5 * 3/4 ln 2 + 1/4 ln 2. sigmoid: p_t = 3/4, p_s = 1/2."""
    ln2, ln3 = math.log(2), math.log(3)
    rows = torch.tensor([[0.0, 0]]), torch.tensor([[ln3, 0]])
    assert chen_kd.softmax_soft(*rows).item() == pytest.approx((1.5 * 0.75 + 0.25) * ln2, rel=1e-6)
    one = torch.tensor([[0.0]]), torch.tensor([[ln3]])
    assert chen_kd.sigmoid_soft(*one).item() == pytest.approx((0.75 + 1.5 * 0.25) * ln2, rel=1e-6)


def test_bounded_regression_only_pulls_where_the_teacher_is_better():
    truth = torch.zeros(3, 4)
    student = torch.tensor([[1.0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 1, 1, 1], [2, 0, 0, 0], [0, 0, 0, 0]])
    loss = chen_kd.bounded(student, teacher, truth)
    loss.backward()
    assert loss.item() == pytest.approx(5 / 3)  # 5 > 4; 1 < 4; 0 = 0
    assert torch.equal(student.grad[1:], torch.zeros(2, 4))
    torch.testing.assert_close(
        student.grad[0], torch.tensor([2.0, 4, 0, 0]) / 3
    )  # towards the truth, not the teacher
    assert chen_kd.bounded(student[:0], teacher[:0], truth[:0]) == 0


def test_chen_kd_of_a_two_stage_detector():
    grid = anchors()
    labels = torch.full((2 * len(grid),), -1)
    labels[:4] = torch.tensor([0, 0, 1, 1])
    rpn = head_of(
        grid, logits=torch.randn(2 * len(grid), 1), deltas=torch.randn(2 * len(grid), 4), labels=labels
    )
    rcnn = head_of(
        grid[:3], logits=torch.randn(6, 5), deltas=torch.randn(6, 4), labels=torch.tensor([0, 3, 0, 0, 0, 1])
    )
    pair = batch_of(output([[]] * 2, heads=lambda: {"rpn": rpn, "rcnn": rcnn}))
    of_teacher = {
        "rpn": (torch.randn(2 * len(grid), 1), torch.randn(2 * len(grid), 4)),
        "rcnn": (torch.randn(6, 5), torch.randn(6, 4)),
    }
    terms = to_identity(built("KD"))(replace(pair, heads=of_teacher))
    p, q = softmax(array(of_teacher["rcnn"][0]), 1), log_softmax(array(rcnn.logits), 1)
    assert terms["kd_rcnn_class"].item() == pytest.approx(
        0.25 * -(p * q * [1.5, 1, 1, 1, 1]).sum(1).mean(), rel=1e-5
    )
    z, t = array(rpn.logits)[:4, 0], array(of_teacher["rpn"][0])[:4, 0]  # the four labelled anchors
    yes, no = 1 / (1 + np.exp(-t)), 1 / (1 + np.exp(t))
    soft = yes * np.log1p(np.exp(-z)) + 1.5 * no * np.log1p(np.exp(z))
    assert terms["kd_rpn_class"].item() == pytest.approx(0.25 * soft.mean(), rel=1e-5)
    ours, bound = ((array(d)[[2, 3]] ** 2).sum(1) for d in (rpn.deltas, of_teacher["rpn"][1]))
    assert terms["kd_rpn_box"].item() == pytest.approx(0.5 * (ours * (ours > bound)).mean(), rel=1e-5)
    hint = np.mean([np.mean((array(s) - array(t)) ** 2) for s, t in pair.maps()])
    assert terms["kd_hint"].item() == pytest.approx(0.5 * hint, rel=1e-5)


def test_general_instances_are_the_largest_disagreements_that_do_not_overlap():
    boxes = torch.tensor(
        [[0, 0, 12, 12], [1, 0, 13, 12], [16, 16, 30, 30], [0, 20, 9, 32], [18, 0, 32, 14.0]]
    )
    student = torch.tensor([[0.0], [0], [0], [0], [0]])
    teacher = torch.tensor([[1.0], [2], [-3], [9], [0.5]])  # disagreements .23 .38 .45 .50 .12
    head = head_of(boxes, 1, logits=student)
    (found,) = gid.general_instances(head, student, teacher, torch.zeros(5, 4), torch.zeros(1, 3, 32, 32))
    # 0 overlaps 1 by more than 0.3, 3 is 9 px wide; in the order of disagreement:
    assert torch.allclose(found, boxes[[2, 1, 4]], atol=1e-4)
    moved = torch.tensor([[0.1, 0, 0, 0]]).repeat(
        5, 1
    )  # the surer net's box: the teacher's where its logit is higher
    (found,) = gid.general_instances(head, student, teacher, moved, torch.zeros(1, 3, 32, 32))
    assert torch.allclose(found[0], boxes[2], atol=1e-4) and torch.allclose(
        found[1], boxes[1] + torch.tensor([1.2, 0, 1.2, 0]), atol=1e-4
    )
    torch.manual_seed(0)
    many = torch.rand(200, 2) * 18
    grid = torch.cat([many, many + 11], 1)
    (found,) = gid.general_instances(
        head_of(grid, 1, logits=torch.zeros(200, 1)),
        torch.zeros(200, 1),
        torch.randn(200, 1),
        torch.zeros(200, 4),
        torch.zeros(1, 3, 32, 32),
    )
    assert 1 < len(found) <= 10 and all(
        iou(a.tolist(), b.tolist()) <= 0.3 for i, a in enumerate(found) for b in found[:i]
    )


def test_relation_against_scipy():
    s, t = (
        torch.randn(5, 7),
        torch.randn(5, 7) * 100,
    )  # in units of its own mean: the teacher's scale does not matter
    a, b = (pdist(array(x)) / pdist(array(x)).mean() for x in (s, t))
    d = np.abs(a - b)
    assert gid.relation(s, t).item() == pytest.approx(np.where(d < 1, d**2 / 2, d - 0.5).mean(), rel=1e-5)
    assert gid.relation(s[:2], t[:2]) == 0


def test_gid_features_and_responses_by_hand():
    """Two instances on constant maps: s = 1, t = 3 in two channels give 5e-4 * (2 * 2^2 * 100) / 100."""
    boxes = torch.tensor([[0, 0, 12, 12], [16, 16, 30, 30.0]])
    head = head_of(boxes, 1, logits=torch.zeros(2, 1), deltas=torch.zeros(2, 4))
    out = output([[]], heads=lambda: {"rpn": head})
    maps = {
        k: (torch.ones(1, 2, *m.shape[2:]), 3 * torch.ones(1, 2, *m.shape[2:]))
        for k, m in out.features.items()
    }
    logits, deltas = (
        torch.tensor([[math.log(3)], [-math.log(3)]]),
        torch.tensor([[0.0, 0, 0, 0], [0.1, 0, 0, -0.2]]),
    )
    method = built("GID", 2, 2)
    with torch.no_grad():
        nn.init.dirac_(method.adapter.weight)
        nn.init.zeros_(method.adapter.bias)
    terms = {
        k: v.item() for k, v in method(TeacherStudentBatch(out, maps, {"rpn": (logits, deltas)})).items()
    }
    entropy = math.log(2)  # of sigmoid(0), whatever the target
    assert terms == pytest.approx(
        {"gid_feature": 5e-4 * 8, "gid_relation": 0, "gid_class": 0.1 * entropy, "gid_box": 0.3 / 2}, rel=1e-4
    )


# What all must keep


@pytest.mark.parametrize("name", ["FitNets", "AT", "PKD", "CWD", "DeFeat", "FGFI"])
def test_nothing_to_learn_from_oneself(name):
    out = output([[[4, 8, 13, 17]], []], heads=lambda: {"rpn": head_of(anchors())})
    pair = the_same(batch_of(out))
    terms = to_identity(built(name))(pair)
    sum(terms.values()).backward()
    for value in terms.values():
        assert abs(value.item()) < 1e-5
    assert all(s.grad.isfinite().all() and s.grad.abs().max() < 1e-4 for s, _ in pair.maps())


@pytest.mark.parametrize("name", [n for n in IMITATIONS if n != "FKD"])
def test_the_factor_multiplies_every_term(name):
    grid = anchors()
    heads = {
        "rpn": head_of(
            grid,
            logits=torch.randn(2 * len(grid), 1),
            labels=torch.ones(2 * len(grid)).long(),
            deltas=torch.rand(2 * len(grid), 4),
        )
    }
    pair = replace(
        batch_of(output([[[4, 8, 13, 17]]] * 2, heads=lambda: heads)),
        heads={"rpn": (torch.randn(2 * len(grid), 1), torch.zeros(2 * len(grid), 4))},
    )
    plain, weak = built(name), built(name, factor=0.25)
    weak.load_state_dict(plain.state_dict())
    plain, weak = plain(pair), weak(pair)
    assert plain.keys() == weak.keys() and all(v > 0 for v in plain.values())
    assert {k: v.item() for k, v in weak.items()} == pytest.approx(
        {k: 0.25 * v.item() for k, v in plain.items()}, rel=1e-5
    )


DEFINED = [(s, n) for s in STUDENTS for n in IMITATIONS if n not in ARCHITECTURES[s].family.undefined]


@pytest.fixture(scope="module")
def detectors():
    """Student and teacher of each name, made once."""
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(0)
            e = experiment("smoke", name, "FKD")
            made[name] = e, build_student(e, 5, "none"), build_student(detector_teacher(e), 5, "none").model
        return made[name]

    return get


@pytest.mark.parametrize("student, name", DEFINED)
def test_every_method_on_every_student_it_is_defined_for(student, name, detectors):
    """Finite terms, also without objects; a gradient for adapters and student, none for the teacher."""
    e, step, teacher = detectors(student)
    distill = FromDetector(teacher, IMITATION_CLASSES[name](necks_of(step, teacher, e.anchor_scale)))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    images, targets = scenes()
    distill.method.train()
    for part in (slice(None), slice(1, 2)):  # the second image has no box
        step.zero_grad()
        terms = distill(step([images[i] for i in range(3)][part] * 2, targets[part] * 2))
        assert all(v.isfinite() and v.ndim == 0 and k.split("_")[0] == name.lower() for k, v in terms.items())
        sum(terms.values()).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in step.parameters())
        if part == slice(None):
            first = next(p for p in step.model.backbone.parameters() if p.ndim == 4)
            assert first.grad.abs().sum() > 0
            weights = [
                p
                for k, p in distill.method.named_parameters()
                if k.endswith("weight") and "nonlocal" not in k
            ]
            reached = [
                bool(p.grad.abs().sum() > 0) for p in weights
            ]  # a level without its object (FGFI) or of one cell (CWD)
            assert any(reached) if name in ("FGFI", "CWD") else all(reached)
            for key, term in distill(step(images, targets)).items():
                found = torch.autograd.grad(
                    term, list(step.parameters()), retain_graph=True, allow_unused=True
                )
                assert any(g is not None for g in found), f"{key} teaches the student nothing"
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert not any(m.training for m in teacher.modules())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    of_teacher = {id(p) for p in teacher.parameters()}
    assert not of_teacher & {id(p) for p in distill.method.parameters()}


def test_necks_and_heads_must_correspond(detectors):
    e, step, teacher = detectors("FasterRCNN-R50")
    with pytest.raises(ValueError, match="3 student and 4 teacher levels"):
        Necks([8] * 3, [8] * 4, False)
    images, targets = scenes()
    out = step(images, targets)
    distill = FromDetector(teacher, IMITATION_CLASSES["AT"](Necks([16] * 4, [32] * 4, False)))
    with pytest.raises(ValueError, match="student's neck has no level 3"):
        distill(replace(out, features={k: v for k, v in out.features.items() if k != "3"}))
    with pytest.raises(ValueError, match="teacher's neck has no level p6"):
        distill(replace(out, features=out.features | {"p6": out.features["3"]}))
    with pytest.raises(ValueError, match=r"level 1 is \(16, 16\).*\(8, 8\) in the teacher"):
        distill(replace(out, features=out.features | {"1": out.features["0"]}))
    other = build_student(detector_teacher(e), 7, "none").model  # seven classes
    with pytest.raises(ValueError, match=r"rcnn head has \(\d+, 6\) logits in the student but \(\d+, 8\)"):
        FromDetector(other, IMITATION_CLASSES["KD"](necks_of(step, other)))(out)
    with pytest.raises(ValueError, match="as many channels in every level"):
        IMITATION_CLASSES["GID"](Necks([8, 16], [8, 16], True))


def test_an_experiment_says_how_many_images_are_remembered(detectors):
    e, step, teacher = detectors("FasterRCNN-R50")
    imitations = (
        build_imitation(e.replace(method="FKD", remembered_images=n), step, teacher) for n in (0, 9)
    )
    assert [imitation.remembered and imitation.remembered.limit for imitation in imitations] == [None, 9]


@pytest.mark.parametrize("name", ["FKD", "KD"])  # maps only, and heads on the maps
def test_a_remembered_image_is_not_read_again_and_has_the_same_maps(name, detectors):
    e, step, teacher = detectors("FasterRCNN-R50")
    method = IMITATION_CLASSES[name](necks_of(step, teacher, e.anchor_scale))
    remembering = FromDetector(teacher, method, remembered_images=9)
    out = step(*scenes())
    with torch.no_grad():
        expected = FromDetector(teacher, method)(out)
        read = []
        reading = teacher.backbone.register_forward_hook(lambda _, inputs, maps: read.append(len(inputs[0])))
        for _ in range(2):
            terms = remembering(out)
            assert terms == {key: pytest.approx(term.item(), rel=1e-4) for key, term in expected.items()}
        assert read == [1] * len(out.images)  # one at a time, in the first step only
        remembering.forget()
        remembering(out)
        reading.remove()
    assert read[len(out.images) :] == [len(out.images)]


@pytest.mark.parametrize("student", ["RetinaNet-R50", "FasterRCNN-R50"])
@pytest.mark.parametrize("name", ["KD", "GID", "PKD", "CWD"])
def test_fp32_under_autocast(name, student, detectors):
    e, step, teacher = detectors(student)
    distill = FromDetector(teacher, IMITATION_CLASSES[name](necks_of(step, teacher, e.anchor_scale)))
    images, targets = scenes()
    with torch.autocast("cpu", torch.bfloat16):
        terms = distill(step(images, targets))
    assert all(v.dtype == torch.float32 and v.isfinite() for v in terms.values())
