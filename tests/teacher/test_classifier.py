"""The teacher: any timm classifier, frozen by construction, read only as deep as asked."""

import math

import pytest
import torch
import torch.nn.functional as F

from c2dlib.distillation.losses import pooled_l1
from c2dlib.teacher.classifier import Teacher, build_classifier, classifier_loss, expected_calibration_error
from c2dlib.teacher.crops import crop_regions


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def teacher():
    classifier = build_classifier("resnet18", 5, 64, width=0.125).train()
    return Teacher(classifier, num_classes=5, size=32)


def crops(n=4, size=32):
    return 255 * torch.rand(n, 3, size, size)


def test_frozen_by_construction(teacher):
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    holder = torch.nn.ModuleList([teacher]).train()  # whoever holds it cannot wake it up
    assert not any(module.training for module in holder[0].modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    reading = teacher.read(crops().requires_grad_(), layers=2)
    assert not reading.logits.requires_grad and not any(m.requires_grad for m in reading.maps)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())  # batch statistics too
    assert teacher.train() is teacher and not teacher.training


def test_gradient_flows_to_the_crops_only(teacher):
    x = crops().requires_grad_()
    for layers in (1, 2):
        x.grad = None
        teacher.early(x, layers)[-1].sum().backward()
        assert x.grad.abs().sum() > 0 and all(p.grad is None for p in teacher.parameters())


def test_early_maps_and_logits_of_a_resnet_by_hand():
    x, net = crops(), build_classifier("resnet18", 5, 64, width=0.125).eval()
    teacher = Teacher(net, num_classes=5, size=32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's
    seen = (x / 255 - mean[:, None, None]) / std[:, None, None]
    stem = F.batch_norm(
        F.conv2d(seen, net.conv1.weight, stride=2, padding=3),
        net.bn1.running_mean,
        net.bn1.running_var,
        net.bn1.weight,
        net.bn1.bias,
    ).relu()
    l0 = F.max_pool2d(stem, 3, 2, 1)
    l1 = net.layer1(l0)
    logits = net.fc(net.layer4(net.layer3(net.layer2(l1))).mean((2, 3)))
    reading = teacher.read(x, layers=2)
    assert l0.shape[2:] == (8, 8) and reading.logits.shape == (4, 5)
    for ours, expected in zip([reading.logits, *reading.maps], [logits, l0, l1], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(teacher.early(x, 1)[0], reading.maps[0])
    assert teacher.read(x).maps == []


def test_no_deeper_than_asked(teacher):
    def refuse(*_):
        raise AssertionError("a deeper layer ran")

    teacher.classifier.layer2.register_forward_pre_hook(refuse)
    teacher.early(crops(), 2)
    teacher.classifier.layer1.register_forward_pre_hook(refuse)
    teacher.early(crops(), 1)


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_050", "efficientnet_b0", "convnext_atto", "resnext50_32x4d", "vit_tiny_patch16_224"],
)
def test_any_timm_classifier(name):
    teacher = Teacher(build_classifier(name, 7, 64), 7, 64)
    x = crops(2, 64).requires_grad_()
    early, deeper = teacher.early(x, 2)
    (early.sum() + deeper.sum()).backward()
    assert teacher.read(x).logits.shape == (2, 7) and x.grad.isfinite().all() and x.grad.any()
    assert early.shape[-1] >= deeper.shape[-1] >= 4


def test_errors_name_what_to_do():
    with pytest.raises(ValueError, match="resnet51.*near.*resnet50"):
        build_classifier("resnet51", 5, 64)
    with pytest.raises(ValueError, match="mobilenetv3_small_050"):
        build_classifier("mobilenetv3_small_050", 5, 64, width=0.5)


def test_width_slims_the_stages_of_a_resnet():
    narrow, full = build_classifier("resnet50", 3, 64, 0.25), build_classifier("resnet50", 3, 64)
    for name in ("layer1.2.conv3", "layer2.0.conv2", "layer4.2.conv1"):
        ours, timms = narrow.get_submodule(name).weight.shape, full.get_submodule(name).weight.shape
        assert ours[:2] == (timms[0] // 4, timms[1] // 4)


def test_expected_calibration_error_by_hand():
    confidence, correct = [0.95, 0.95, 0.65, 0.55], [True, False, True, False]
    rows = [[c, 1 - c] if right else [1 - c, c] for c, right in zip(confidence, correct, strict=True)]
    # bins: two at .95 of which half are right (gap .45), .65 right (gap .35), .55 wrong (gap .55)
    expected = 100 * (0.5 * 0.45 + 0.25 * 0.35 + 0.25 * 0.55)
    labels = torch.zeros(4, dtype=torch.int64)
    for bins in (10, 15):
        error = expected_calibration_error(torch.tensor(rows), labels, bins)
        assert error == pytest.approx(expected, rel=1e-5)
    assert expected_calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0


def test_classifier_loss_by_hand():
    logits, labels = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([1, 0])
    first, second = math.log(4 / 3), math.log(2)  # softmax: -log 3/4 and -log 1/2
    assert classifier_loss(logits, labels, False).item() == pytest.approx((first + second) / 2)
    binary = (math.log(2) + math.log(4 / 3)) + 2 * math.log(2)  # sigmoid(log 3) = 3/4; summed over classes
    assert classifier_loss(logits, labels, True).item() == pytest.approx((first + second + binary) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_change_its_arithmetic(dtype):
    teacher, x = Teacher(build_classifier("resnet18", 5, 32, width=0.125), 5, 32, dtype), crops()
    expected = teacher.read(x, layers=2)
    with torch.autocast("cpu", torch.bfloat16):
        reading, early = teacher.read(x, layers=2), teacher.early(x, 2)
    for ours, theirs in zip([reading.logits, *reading.maps], [expected.logits, *expected.maps], strict=True):
        assert torch.equal(ours, theirs)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(early, expected.maps, strict=True))


@pytest.mark.parametrize("size", [33, 48])
def test_the_copy_for_reading_computes_the_same(size):
    """Folded BatchNorms and the 2x2-block stem against the classifier as trained, statistics not trivial."""
    torch.manual_seed(1)
    classifier = build_classifier("resnet18", 5, size, width=0.125)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    teacher, x = Teacher(classifier, 5, size), crops(3, size)
    classifier.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            teacher.read(x).logits, classifier((x - teacher.mean) / teacher.std), rtol=1e-4, atol=1e-4
        )
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in classifier.modules())  # the original is untouched


def test_bfloat16_teacher_agrees_to_three_digits():
    """Logits within 2 % of their spread; the gradient that KD_loc sends to boxes has the same direction."""
    scene = F.interpolate(255 * torch.rand(1, 3, 12, 12), size=96, mode="bicubic").clamp(0, 255)
    true = torch.tensor([[10.0, 12, 50, 60], [30.0, 20, 90, 80]]).repeat(20, 1)
    net, rows = build_classifier("resnet18", 5, 64), torch.zeros(len(true), dtype=torch.int64)
    logits, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        teacher = Teacher(net, 5, 64, dtype)
        torch.manual_seed(1)
        boxes = (true + 6 * torch.randn_like(true)).requires_grad_()
        seen, reference = (crop_regions(scene, b, rows, 64) for b in (boxes, true))
        pooled_l1(teacher.early(seen, 1)[0], teacher.early(reference, 1)[0], 8).backward()
        logits.append(teacher.read(seen.detach()).logits)
        gradients.append(boxes.grad.flatten())
    assert all(x.dtype == torch.float32 for x in logits + gradients)
    assert (logits[0] - logits[1]).abs().max() < 0.02 * (logits[0].max() - logits[0].min())
    assert not torch.equal(logits[0], logits[1])
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
