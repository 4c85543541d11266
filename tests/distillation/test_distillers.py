"""Method names, and the distillers: from a TrainOutput to weighted terms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from c2dlib.config.experiment import experiment
from c2dlib.config.methods import METHODS, canonical, parts
from c2dlib.detectors.train_output import GroundTruth, MatchedPositives, TeacherReading, TrainOutput
from c2dlib.distillation.build import build_distillers
from c2dlib.distillation.classify import ClassificationDistiller
from c2dlib.distillation.controls import (
    ClassControl,
    L1Control,
    LabelControl,
    OtherImageControl,
    PermutedControl,
    class_logits,
)
from c2dlib.distillation.localise import LocalisationDistiller
from c2dlib.distillation.losses import kd_cls, matched_l1, paired_iou
from c2dlib.distillation.remembered import Remembered
from c2dlib.teacher.classifier import Teacher, build_classifier

SETTINGS = {
    "lambda_l": 1.0,
    "lambda_kl": 1.0,
    "sampling_size": 8,
    "pool_obj": 4,
    "pool_maps": 4,
    "kd_loc_layers": 1,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Eye:
    """Its maps are crops / 255 and twice that, its logits the mean colours; it logs its readings."""

    size = 4

    def __init__(self):
        self.readings, self.weight = [], torch.tensor(1.0, requires_grad=True)

    def early(self, crops, layers):
        self.readings.append((len(crops), crops.requires_grad))
        return [(k + 1) * self.weight.detach() * crops / 255 for k in range(layers)]

    def read(self, crops, layers=0):
        self.readings.append((len(crops), crops.requires_grad))
        return TeacherReading(self.weight * crops.mean((2, 3)) / 255, [])


def output(softmax=True, positives=5, images=None, boxes=None, pred=None):
    """Three images, the second empty; ground truth 0, 1 in the first, 0 in the third. Pixels are 0..255."""
    images = torch.rand(3, 3, 24, 32) if images is None else images / 255
    if boxes is None:
        boxes = [
            torch.tensor([[2.0, 2, 12, 14], [10, 5, 30, 20]]),
            torch.zeros(0, 4),
            torch.tensor([[4.0, 4, 20, 20]]),
        ]
        image_index, gt_index = torch.tensor([[0, 2, 0, 0, 2], [1, 0, 0, 1, 0]])[:, :positives]
        labels = [torch.tensor([1, 3]), torch.zeros(0, dtype=torch.int64), torch.tensor([2])]
        truth = [boxes[i][g] for i, g in zip(image_index, gt_index, strict=True)]
        pred = torch.cat([torch.zeros(0), *truth]).reshape(-1, 4)
        pred = (pred + torch.randn(positives, 4)).requires_grad_()
    else:
        image_index = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
        gt_index = torch.cat([torch.arange(len(b)) for b in boxes])
        labels = [torch.ones(len(b), dtype=torch.int64) for b in boxes]
    targets = [{"boxes": b, "labels": x} for b, x in zip(boxes, labels, strict=True)]
    chosen = torch.tensor([labels[i][g] - 1 for i, g in zip(image_index, gt_index, strict=True)]).long()
    matched = MatchedPositives(
        image_index,
        gt_index,
        chosen,
        torch.randn(len(pred), 3, requires_grad=True),
        torch.randn(len(pred), requires_grad=True) if softmax else None,
        pred,
    )
    return TrainOutput(images, torch.zeros(3), torch.ones(3), targets, {}, {}, matched)


def test_names():
    assert parts("baseline") == [] and canonical("baseline") == "baseline"
    assert parts("ours") == ["KDcls", "loc", "KDloc"] and canonical("ours") == "KDcls+loc+KDloc"
    assert parts("FKD+ours") == ["KDcls", "loc", "KDloc", "FKD"] == parts("ours+FKD")
    assert canonical("KDloc+loc") == "loc+KDloc"
    assert parts("KDcls-labels") == ["KDcls-labels"]  # not KDcls
    assert all(canonical(canonical(name)) == canonical(name) for name in METHODS)
    for wrong in ("KDCls", "", "ours+baseline", "PDK"):
        with pytest.raises(ValueError, match="KDcls\\+loc\\+KDloc"):
            parts(wrong)


@pytest.mark.parametrize("chunk", [5, 32])
def test_assembled_path_agrees_with_the_official_code(shared, chunk):
    """obj pooled to 4 x 4 and l0 to 8 x 8, weight 1: through pixels, targets, chunks and gathering."""
    arrays = np.load(shared / "reference/official_loss_vectors.npz")
    v = {k.split("/")[1]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("loc_obj_l0")}

    class Stem(Eye):
        def early(self, crops, layers):
            x = F.conv2d(crops, v["conv_w"], stride=2, padding=3)
            x = F.batch_norm(x, v["bn_m"], v["bn_v"], v["bn_w"], v["bn_b"])
            return [F.max_pool2d(x.relu(), 3, 2, 1)]

    pred = v["pred"].clone().requires_grad_()
    out = output(images=v["images"], boxes=list(v["target"].split(v["counts"].tolist())), pred=pred)
    settings = SETTINGS | {"sampling_size": v["out_size"].item(), "pool_maps": 8}
    terms = LocalisationDistiller(Stem(), ["loc", "KDloc"], **settings, chunk=chunk)(out)
    loss = terms["loc"] + terms["KDloc"]
    loss.backward()
    torch.testing.assert_close(loss.detach(), v["loss"], rtol=1e-4, atol=0)
    assert F.cosine_similarity(pred.grad.flatten(), v["grad"].flatten(), 0) > 0.999
    torch.testing.assert_close(pred.grad.norm(), v["grad"].norm(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("softmax", [True, False])
def test_labels_in_the_teachers_place_are_cross_entropy(softmax):
    out = output(softmax)
    term = LabelControl(0.4, 2.0)(out)["KDcls-labels"]
    expected = 0.0
    for p, label in enumerate([2, 1, 0, 2, 1]):
        z = (out.positives.class_logits[p] / 2).tolist()
        if softmax:
            total = sum(map(math.exp, z)) + math.exp(out.positives.background_logits[p].item() / 2)
            expected += 0.4 * 4 * -math.log(math.exp(z[label]) / total) / 5
        else:
            signs = [1 if c == label else -1 for c in range(3)]
            binary = [math.log(1 + math.exp(-s * x)) for s, x in zip(signs, z, strict=True)]
            expected += 0.4 * 4 * sum(binary) / 3 / 5
    assert term.item() == pytest.approx(expected, rel=1e-5)


def test_every_ground_truth_is_read_once_and_only_the_student_learns():
    out, teacher = output(), Eye()
    terms = ClassificationDistiller(teacher, 1.0)(out)
    terms |= LocalisationDistiller(teacher, ["loc", "KDloc"], **SETTINGS, chunk=2)(out)
    assert list(terms) == ["KDcls", "loc", "KDloc"] and all(t.isfinite() and t > 0 for t in terms.values())
    # logits of 3 boxes, maps of 3 boxes, then predicted crops in chunks; only the last with gradient
    assert teacher.readings == [(3, False), (3, False), (2, True), (2, True), (1, True)]
    sum(terms.values()).backward()
    assert teacher.weight.grad is None
    for tensor in (out.positives.class_logits, out.positives.background_logits, out.positives.pred_boxes):
        assert tensor.grad.isfinite().all() and tensor.grad.any()


def test_a_remembered_crop_is_not_read_again_and_has_the_same_logits():
    teacher = Eye()
    distill = ClassificationDistiller(teacher, 1.0, remembered_crops=3)
    out = output()
    expected = ClassificationDistiller(Eye(), 1.0)(out)["KDcls"].item()
    for _ in range(2):
        assert distill(out)["KDcls"].item() == pytest.approx(expected, rel=1e-6)
    assert teacher.readings == [(1, False)] * 3  # one at a time, in the first step only
    flipped = output(images=out.images.flip(3) * 255)
    expected = ClassificationDistiller(Eye(), 1.0)(flipped)["KDcls"].item()
    assert distill(flipped)["KDcls"].item() == pytest.approx(expected, rel=1e-6)
    assert len(teacher.readings) == 6 and len(distill.remembered.answers) == 3  # the oldest made room
    distill.forget()
    distill(flipped)
    assert teacher.readings[6:] == [(3, False)]


def test_the_answer_to_a_remembered_image_does_not_depend_on_the_others():
    """So a training that goes on from a checkpoint has the numbers of one that was never interrupted."""
    teacher = Teacher(build_classifier("resnet18", 3, 32, width=0.25), 3, 32)
    crops = torch.rand(20, 3, 32, 32) * 255

    def read(images):
        return {"logits": teacher.read(images).logits}

    whole, parts = Remembered(read, 100)(crops)["logits"], Remembered(read, 100)
    again = torch.cat([parts(crops[12:])["logits"], parts(crops[:12])["logits"]]).roll(12, 0)
    assert torch.equal(again, whole)
    torch.testing.assert_close(whole, teacher.read(crops).logits)


def test_images_of_equal_pixels_in_another_shape_are_not_taken_for_each_other():
    remembered = Remembered(lambda image: {"height": torch.tensor([image.shape[2]])}, 9)
    assert remembered(torch.zeros(1, 1, 2, 8))["height"].tolist() == [2]
    assert remembered(torch.zeros(2, 1, 4, 4))["height"].tolist() == [4, 4]


def test_kd_cls_compares_with_the_reading_of_the_own_ground_truth():
    """Colour 255 c fills ground truth c's channel: its logits are one-hot, gathered to its positives."""
    images = torch.zeros(3, 3, 24, 32)
    images[0, 0, 2:14, 2:12] = images[2, 2, 4:20, 4:20] = 255
    boxes = [torch.tensor([[2.0, 2, 12, 14]]), torch.zeros(0, 4), torch.tensor([[4.0, 4, 20, 20]])]
    out = output(False, images=images, boxes=boxes, pred=torch.cat(boxes))
    logits = torch.tensor([[1.0, 0, 0], [0, 0, 1]])  # what Eye says: equal distributions, zero loss
    for offset, zero in ((0.0, True), (0.5, False)):
        object.__setattr__(out.positives, "class_logits", logits + offset)
        term = ClassificationDistiller(Eye(), 1.0)(out)["KDcls"]
        assert (abs(term.item()) < 1e-6) == zero


def test_localisation_weights_layers_and_zero():
    settings = SETTINGS | {"lambda_l": 0.1, "lambda_kl": 2.55, "kd_loc_layers": 2}
    terms = LocalisationDistiller(Eye(), ["loc", "KDloc"], **settings)(output())
    torch.testing.assert_close(terms["KDloc"], terms["loc"] * 2.55 / 255 / 0.1 * (1 + 2) / 2)
    boxes = [torch.tensor([[2.0, 2, 12, 14]]), torch.zeros(0, 4), torch.tensor([[4.0, 4, 20, 20]])]
    perfect = output(boxes=boxes, pred=torch.cat(boxes).requires_grad_())
    terms = LocalisationDistiller(Eye(), ["loc", "KDloc"], **settings)(perfect)
    assert terms["loc"].item() == terms["KDloc"].item() == 0


def test_equal_boxes_under_autocast_give_no_loss_and_no_gradient():
    teacher = Teacher(build_classifier("resnet18", 3, 32, width=0.25), 3, 32)
    boxes = [torch.tensor([[2.0, 2, 12, 14]]), torch.zeros(0, 4), torch.tensor([[4.0, 4, 20, 20]])]
    pred = torch.cat(boxes).requires_grad_()
    distill = LocalisationDistiller(
        teacher, ["loc", "KDloc"], **SETTINGS | {"sampling_size": 32, "pool_maps": 8}
    )
    with torch.autocast("cpu", torch.bfloat16):
        terms = distill(output(boxes=boxes, pred=pred))
    assert terms["loc"].item() == terms["KDloc"].item() == 0
    (gradient,) = torch.autograd.grad(sum(terms.values()), pred)
    assert not gradient.any()


def test_only_boxes_near_their_object_enter_loc_and_kd_loc():
    """Of three positives only the one whose box overlaps by more than half counts."""
    truth = [
        torch.tensor([[2.0, 2, 12, 14], [10, 5, 30, 20]]),
        torch.zeros(0, 4),
        torch.tensor([[4.0, 4, 20, 20]]),
    ]
    pred = torch.tensor(
        [[3.0, 2, 13, 14], [12, 8, 12, 8], [4, 4, 4, 20]], requires_grad=True
    )  # near; no size; no width
    out = output(boxes=truth, pred=pred)
    alone = replace(out, positives=MatchedPositives(**{k: v[:1] for k, v in vars(out.positives).items()}))
    near = LocalisationDistiller(Eye(), ["loc", "KDloc"], **SETTINGS, loc_min_iou=0.5)
    terms, expected = near(out), LocalisationDistiller(Eye(), ["loc", "KDloc"], **SETTINGS)(alone)
    assert all(
        terms[name].item() == pytest.approx(expected[name].item()) and terms[name] > 0
        for name in ("loc", "KDloc")
    )
    assert near.divisors(out) == {"loc": 1, "KDloc": 1}
    (gradient,) = torch.autograd.grad(sum(terms.values()), pred)
    assert gradient[0].abs().max() > 0 and gradient[1:].abs().max() == 0
    far = replace(out, positives=replace(out.positives, pred_boxes=pred * 0))
    assert all(v.item() == 0 and v.requires_grad for v in near(far).values()) and near.divisors(far) == {
        "loc": 0,
        "KDloc": 0,
    }


def test_paired_iou_by_hand():
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4], [2, 0, 2, 4], [0, 0, 1, 1]])
    truth = torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [0, 0, 4, 4], [5, 5, 6, 6]])
    assert paired_iou(boxes, truth).tolist() == pytest.approx([1, 8 / 24, 0, 0])


def test_max_positives_draws_some_and_keeps_the_mean():
    out, teacher = output(), Eye()
    everyone = LocalisationDistiller(teacher, ["KDloc"], **SETTINGS)(out)["KDloc"].item()
    draws = []
    for _ in range(200):
        teacher.readings.clear()
        distill = LocalisationDistiller(teacher, ["KDloc"], **SETTINGS, max_positives=2)
        draws.append(distill(out)["KDloc"].item())
        assert teacher.readings == [(3, False), (2, True)]
    assert np.mean(draws) == pytest.approx(everyone, rel=0.1)


@pytest.mark.parametrize("softmax", [True, False])
def test_no_positives(softmax):
    out, teacher = output(softmax, positives=0), Eye()
    names = ["KDcls", "KDcls-labels", "KDcls-mean", "KDcls-permuted", "loc", "KDloc", "loc-L1"]
    terms = ClassificationDistiller(teacher)(out) | LabelControl(1.0, 2.0)(out)
    terms |= ClassControl("KDcls-mean", torch.zeros(3, 3), 1.0, 2.0)(out)
    terms |= PermutedControl(torch.zeros(3, 3), torch.arange(3), 1.0, 2.0)(out)
    terms |= L1Control(LocalisationDistiller(teacher, ["loc", "KDloc"], **SETTINGS), names[-3:])(out)
    assert list(terms) == names and all(t.item() == 0 for t in terms.values())
    assert not teacher.readings
    sum(terms.values()).backward()
    assert out.positives.class_logits.grad.shape == (0, 3) and out.positives.pred_boxes.grad.shape == (0, 4)


def test_distillers_of_an_experiment():
    changes = {"lambda_kc": 0.7, "kd_loc_layers": 2, "remembered_crops": 9}
    e = experiment("smoke", "SSD300-VGG16", "ours+FKD", **changes)
    fkd, teacher = object(), Eye()
    classification, localisation, last = build_distillers(e, teacher, fkd)
    assert last is fkd and classification.teacher is teacher and localisation.teacher is teacher
    assert (classification.lambda_kc, classification.temperature) == (0.7, e.temperature)
    assert classification.remembered.limit == 9
    assert localisation.terms == ["loc", "KDloc"] and localisation.weights == {
        "loc": e.lambda_l,
        "KDloc": e.lambda_kl,
    }
    assert (localisation.kd_loc_layers, localisation.sampling_size) == (2, 32)
    assert build_distillers(e.replace(method="baseline")) == []
    with pytest.raises(ValueError, match="needs a classification teacher"):
        build_distillers(e.replace(method="KDcls"))
    with pytest.raises(ValueError, match="needs a teacher"):
        build_distillers(e.replace(method="KDloc"))


def test_controls_of_an_experiment():
    """loc and the control of KD_loc compare the same boxes, so that they are one distiller."""
    e = experiment("smoke", "SSD300-VGG16", "KDcls-labels+loc+KDloc-L1")
    labels, boxes = build_distillers(e, Eye())
    assert isinstance(labels, LabelControl) and isinstance(boxes, L1Control)
    out = output()
    assert list(boxes(out)) == ["loc", "KDloc-L1"] and boxes.divisors(out) == {"loc": 5, "KDloc-L1": 5}
    assert boxes.localisation.terms == ["loc", "KDloc"]
    with pytest.raises(ValueError, match="the teacher's logits for the training crops"):
        build_distillers(e.replace(method="KDcls-permuted"), Eye())
    bank = torch.eye(3), torch.arange(3)
    (permuted,) = build_distillers(e.replace(method="KDcls-permuted"), bank=bank)
    assert permuted.divisors(out) == {"KDcls-permuted": 5}
    own, other = build_distillers(e.replace(method="loc+loc-other"))
    assert list(own(out)) == ["loc"] and other.divisors(out) == {"loc-other": 5}
    free = experiment("smoke", "SSD300-VGG16", "C2D-free")
    assert free.method == "KDcls-mean+loc-L1"
    means, plain = build_distillers(free, class_logits={"KDcls-mean": torch.eye(3)})  # no teacher in a step
    assert isinstance(means, ClassControl) and plain.localisation.teacher is None
    (mean,) = build_distillers(e.replace(method="KDcls-mean"), class_logits={"KDcls-mean": torch.eye(3)})
    assert isinstance(mean, ClassControl) and mean.divisors(out) == {"KDcls-mean": 5}


def test_what_stands_in_the_teachers_place_for_a_class():
    """Two classes at T = 2: the class means, and labels smoothed to the mean of the true classes."""
    means = torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # the true class gets 0.8 on average
    soft = class_logits(means, 2.0, softmax=True)
    torch.testing.assert_close((soft["KDcls-mean"] / 2).softmax(1), means)
    torch.testing.assert_close((soft["KDcls-smooth"] / 2).softmax(1), torch.tensor([[0.8, 0.2], [0.2, 0.8]]))
    means = torch.tensor([[0.9, 0.1], [0.5, 0.7]])  # sigmoids need not add up: a wrong class gets 0.3
    hard = class_logits(means, 2.0, softmax=False)
    torch.testing.assert_close((hard["KDcls-mean"] / 2).sigmoid(), means)
    torch.testing.assert_close((hard["KDcls-smooth"] / 2).sigmoid(), torch.tensor([[0.8, 0.3], [0.3, 0.8]]))


def test_class_logits_go_to_the_positives_of_the_class():
    out, table = output(), torch.randn(3, 3)
    distill = ClassControl("KDcls-mean", table, lambda_kc=0.4, temperature=2.0)
    labels, p = [2, 1, 0, 2, 1], out.positives  # as output() draws them
    assert p.labels.tolist() == labels
    expected = 0.4 * kd_cls(p.class_logits, p.background_logits, torch.stack([table[c] for c in labels]), 2.0)
    torch.testing.assert_close(distill(out)["KDcls-mean"], expected)


def test_permuted_answers_are_of_the_class_and_all_of_them_come():
    """Answers are one-hot times a hundred; the loss tells which one the student was compared with."""
    logits = torch.tensor([[100.0, 0, 0], [0, 100, 0], [0, 0, 100], [100, 0, 0], [0, 100, 0]])
    labels = torch.tensor([2, 1, 2, 0, 2])  # class 2 has the answers 0, 2 and 1
    control, out = PermutedControl(logits, labels, lambda_kc=1.0, temperature=1.0), output()
    one = torch.tensor([0])  # the positive of class 2, the only one of its object
    rows = {k: v[one] for k, v in vars(out.positives).items()}
    out = replace(out, positives=MatchedPositives(**rows))
    assert out.positives.labels.tolist() == [2]
    z = torch.cat([out.positives.class_logits[0], out.positives.background_logits]).detach()
    losses = (-z.log_softmax(0)[:3]).tolist()
    terms = [control(out)["KDcls-permuted"].item() for _ in range(300)]
    shares = [sum(abs(term - loss) < 1e-4 for term in terms) / 300 for loss in losses]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.1) and sum(shares) == 1
    torch.manual_seed(5)
    first = control(out)["KDcls-permuted"]
    torch.manual_seed(5)
    assert torch.equal(first, control(out)["KDcls-permuted"])
    object.__setattr__(out.positives, "labels", torch.tensor([1]))
    targets = [{**t, "labels": torch.full_like(t["labels"], 2)} for t in out.targets]
    term = control(replace(out, targets=targets))["KDcls-permuted"]
    assert term.item() == pytest.approx(losses[1], rel=1e-5)  # class 1 has one answer


def test_loc_on_another_image_compares_the_boxes_there():
    out, distil = output(), LocalisationDistiller(None, ["loc"], **SETTINGS)
    there = torch.stack([out.images[2], out.images[0], out.images[1]])
    expected = distil(replace(out, images=there))["loc"]
    term = OtherImageControl(distil)(out)["loc-other"]
    torch.testing.assert_close(term, expected)
    assert not torch.isclose(term, distil(out)["loc"])
    term.backward()
    assert out.positives.pred_boxes.grad.any()
    with pytest.raises(ValueError, match="two images or more"):
        OtherImageControl(distil)(replace(out, images=out.images[:1]))


@pytest.mark.parametrize("term, control", [("loc", "loc-L1"), ("KDloc", "KDloc-L1")])
def test_an_l1_without_image_pulls_as_strongly_but_straight_at_the_truth(term, control):
    def gradient(name):
        out = output()
        L1Control(LocalisationDistiller(Eye(), [term], **SETTINGS), [name])(out)[name].backward()
        return out.positives.pred_boxes.grad, out

    torch.manual_seed(1)
    image, _ = gradient(term)
    torch.manual_seed(1)
    plain, out = gradient(control)
    torch.testing.assert_close(plain.norm(), image.norm())
    truth = GroundTruth.of(out)
    off = out.positives.pred_boxes.detach() - truth.boxes[truth.of_positive]
    assert (plain.sign() == off.sign()).all() and plain.abs().std() < 1e-6 * plain.abs().mean()
    assert not (image.sign() == off.sign()).all()  # the image sends some sides elsewhere


def test_an_l1_of_right_boxes_is_zero():
    boxes = torch.tensor([[1.0, 2, 3, 4]], requires_grad=True)
    term = matched_l1((boxes * 2).sum(), boxes, boxes.detach())
    term.backward()
    assert term == 0 and torch.equal(boxes.grad, torch.zeros(1, 4))
