"""Each detector's step against plain torchvision; architectures against torchvision's own and by formula."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch.hub import load_state_dict_from_url
from torchvision.models.detection import (
    fasterrcnn_resnet50_fpn,
    fcos_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    retinanet_resnet50_fpn,
    ssd300_vgg16,
)

from c2dlib.config.experiment import experiment, parse_override
from c2dlib.config.students import ARCHITECTURES, STUDENTS
from c2dlib.config.weights import WeightsError
from c2dlib.data.augment import VGG_MEAN
from c2dlib.detectors import backbones
from c2dlib.detectors.backbones import build_body, load_initial_weights
from c2dlib.detectors.build import build_student, parameter_count
from c2dlib.detectors.ssd import SSD300, build_ssd, last_object_matches
from c2dlib.files import sha256

BARE = {"weights": None, "weights_backbone": None, "num_classes": 81}


BEYOND_STUDENTS = [
    "SSD300-MV1x025",
    "RetinaNet-MV1x025",
    "FasterRCNN-MV1",
    "FasterRCNN-MV1x025 first_level=3",
    "FasterRCNN-MV2 first_level=3",
    "FasterRCNN-R50 first_level=3",
]


def smoke(name, classes=5):
    """A student of scale smoke: its name, and settings that are changed."""
    name, *settings = name.split()
    torch.manual_seed(0)
    return build_student(experiment("smoke", name, **dict(map(parse_override, settings))), classes, "none")


def paper(name, **changes):
    """The published architecture for COCO, without memory behind its weights."""
    with torch.device("meta"):
        return build_student(experiment("coco", name, **changes), 80, "none").model


def scenes():
    """Three images 64 x 64; the second has no box."""
    torch.manual_seed(1)
    boxes = [[[5.0, 8, 30, 40], [28, 4, 60, 35], [40, 40, 60, 62]], [], [[10.0, 20, 52, 50], [2, 2, 18, 20]]]
    labels = [[1, 5, 3], [], [2, 5]]
    return [torch.rand(3, 64, 64) for _ in boxes], [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(x, dtype=torch.int64)}
        for b, x in zip(boxes, labels, strict=True)
    ]


@pytest.mark.parametrize("name", [*STUDENTS, *BEYOND_STUDENTS])
class TestStep:
    def test_task_losses_equal_torchvisions(self, name):
        step, (images, targets) = smoke(name), scenes()
        images[0] = torch.rand(3, 80, 64)  # resized and padded
        if name.startswith("Mask"):
            for image, target in zip(images, targets, strict=True):
                target["masks"] = torch.randint(
                    0, 2, (len(target["boxes"]), *image.shape[1:]), dtype=torch.uint8
                )
        state = {k: v.clone() for k, v in step.state_dict().items()}
        torch.manual_seed(7)
        expected = step.model(images, targets)
        step.load_state_dict(state)  # batch statistics moved
        torch.manual_seed(7)
        losses = step(images, targets).task_losses
        assert losses.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(losses[key], value, rtol=0, atol=0)

    def test_positives_name_their_objects_and_reach_the_backbone(self, name):
        step, (images, targets) = smoke(name), scenes()
        out = step(images, targets)
        matched = out.positives
        count = len(matched.labels)
        assert count >= 5 and set(matched.image_index.tolist()) == {0, 2}
        for row, gt, label in zip(matched.image_index, matched.gt_index, matched.labels, strict=True):
            assert label == targets[row]["labels"][gt] - 1
        assert matched.class_logits.shape == (count, 5) and matched.pred_boxes.shape == (count, 4)
        assert (matched.background_logits is None) == name.startswith(("RetinaNet", "FCOS"))
        torch.testing.assert_close(out.pixels(), torch.stack(images) * 255, rtol=0, atol=1e-3)
        for value in (matched.pred_boxes.sum(), matched.class_logits.sum()):
            step.zero_grad()
            value.backward(retain_graph=True)
            first = next(p for p in step.model.backbone.parameters() if p.ndim == 4)
            assert first.grad.abs().sum() > 0

    def test_no_boxes_no_positives(self, name):
        images, targets = scenes()
        out = smoke(name)(images[1:2] * 2, targets[1:2] * 2)
        assert len(out.positives.labels) == 0 and out.positives.pred_boxes.shape == (0, 4)
        assert out.positives.class_logits.shape == (0, 5)
        loss = sum(out.task_losses.values())
        loss = loss + out.positives.pred_boxes.sum() + out.positives.class_logits.sum()
        loss.backward()
        assert loss.isfinite()


@pytest.mark.parametrize(
    "name",
    ["SSD300-VGG16", "SSD300-MV1x025", "FasterRCNN-MV1x025", "RetinaNet-MV1x025", "FCOS-R50", "MaskRCNN-R50"],
)
def test_boxes_and_matches_under_autocast_are_those_of_fp32(name):
    images, targets = scenes()
    seen = []
    for autocast in (False, True):
        step = smoke(name)
        generator = step.model.anchor_generator if step.one_stage else step.model.rpn.anchor_generator
        generator.register_forward_hook(lambda _, args, anchors: seen.append(anchors))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = step(images, targets)
            seen[-1] = torch.cat(seen[-1]), out, out.heads()
    (anchors, expected, _), (under_autocast, out, heads) = seen
    assert anchors.dtype == under_autocast.dtype == torch.float32 and anchors.equal(under_autocast)
    matched = vars(out.positives).values()
    floats = [t for t in matched if t is not None and t.is_floating_point()] + [*out.task_losses.values()]
    for head in heads.values():
        floats += [*head.boxes, head.logits, head.deltas, head.targets]
    assert {t.dtype for t in floats} == {torch.float32}
    assert [*out.features.values()][-1].dtype == torch.bfloat16  # the network itself is not in fp32
    if step.one_stage:  # matched by the anchors alone; the proposals of two stages are the network's
        assert out.positives.image_index.equal(expected.positives.image_index)
        assert out.positives.gt_index.equal(expected.positives.gt_index)
    else:
        assert heads["rpn"].labels.equal(expected.heads()["rpn"].labels)


def iou(a, b):
    left, right = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = np.prod(np.clip(right - left, 0, None))
    return inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)


def test_ssd_positives_by_brute_force():
    """Best object per anchor if IoU >= 0.5, and every object's best anchor; box weights 10, 10, 5, 5."""
    step, (images, targets) = smoke("SSD300-VGG16"), scenes()
    seen = {}
    step.model.head.register_forward_hook(lambda _, args, result: seen.update(result))
    step.model.anchor_generator.register_forward_hook(lambda _, args, result: seen.update(anchors=result))
    matched = step(images, targets).positives
    rows = []
    for image, target in enumerate(targets):
        anchors, boxes = seen["anchors"][image].numpy(), target["boxes"].numpy()
        table = np.array([[iou(box, anchor) for anchor in anchors] for box in boxes])
        for a in range(len(anchors)) if len(boxes) else []:
            forced = [g for g in range(len(boxes)) if table[g].argmax() == a]
            if forced or table[:, a].max() >= 0.5:
                g = forced[-1] if forced else table[:, a].argmax()
                dx, dy, dw, dh = seen["bbox_regression"][image, a].tolist()
                x1, y1, x2, y2 = anchors[a]
                w, h = x2 - x1, y2 - y1
                cx, cy = x1 + w / 2 + dx / 10 * w, y1 + h / 2 + dy / 10 * h
                w, h = w * np.exp(dw / 5) / 2, h * np.exp(dh / 5) / 2
                rows.append(
                    [
                        image,
                        g,
                        target["labels"][g] - 1,
                        cx - w,
                        cy - h,
                        cx + w,
                        cy + h,
                        *seen["cls_logits"][image, a].tolist(),
                    ]
                )
    ours = torch.cat(
        [
            torch.stack([matched.image_index, matched.gt_index, matched.labels], 1).float(),
            matched.pred_boxes,
            matched.background_logits[:, None],
            matched.class_logits,
        ],
        1,
    )
    np.testing.assert_allclose(ours.detach().numpy(), np.array(rows, dtype=np.float32), rtol=1e-4, atol=1e-3)


def test_of_several_objects_with_one_best_anchor_the_last_gets_it():
    """Also where the anchor had another match; elsewhere the matches are torchvision's."""
    matcher = build_ssd(3, 300, SSD300, width=0.25).proposal_matcher
    quality = torch.tensor([[0.2, 0.4, 0.1], [0.1, 0.45, 0.0], [0.0, 0.3, 0.2], [0.6, 0.1, 0.0]])
    assert last_object_matches(matcher, quality).tolist() == [3, 2, -1]
    generator = torch.Generator().manual_seed(0)
    shared = 0
    for _ in range(50):
        quality = torch.rand(6, 12, generator=generator)
        shared += quality.argmax(1).unique().numel() < 6
        assert last_object_matches(matcher, quality).equal(matcher(quality))
    assert shared > 10


def test_faster_rcnn_positives_by_brute_force():
    """The predictor shifts a box by 0.1 of its width per class: each positive is a proposal, so shifted."""
    step, (images, targets) = smoke("FasterRCNN-R50"), scenes()
    heads, seen = step.model.roi_heads, []
    with torch.no_grad():
        heads.box_predictor.bbox_pred.weight.zero_()
        heads.box_predictor.bbox_pred.bias.zero_()[::4] = torch.arange(6.0)
    heads.box_roi_pool.register_forward_pre_hook(lambda _, args: seen.append([b.numpy() for b in args[1]]))
    matched = step(images, targets).positives
    proposals = seen[0]
    columns = (matched.image_index, matched.gt_index, matched.labels, matched.pred_boxes)
    for row, gt, label, box in zip(*(c.detach().numpy() for c in columns), strict=True):
        shift = np.outer(0.1 * (label + 1) * (proposals[row][:, 2] - proposals[row][:, 0]), [1, 0, 1, 0])
        distance = np.abs(proposals[row] + shift - box).max(1)
        overlaps = [iou(proposals[row][distance.argmin()], truth) for truth in targets[row]["boxes"].numpy()]
        assert distance.min() < 1e-3 and np.argmax(overlaps) == gt and max(overlaps) >= 0.5
    everywhere = [
        max((iou(p, t) for t in target["boxes"].numpy()), default=0) >= 0.5
        for boxes, target in zip(proposals, targets, strict=True)
        for p in boxes
    ]
    assert len(matched.labels) == sum(everywhere)  # none missing


def test_ssd300_is_torchvisions():
    torch.manual_seed(0)
    ours, theirs = build_ssd(80, 300, SSD300).eval(), ssd300_vgg16(**BARE).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 300, 300)
    with torch.no_grad():
        features, expected = ours.backbone(x), theirs.backbone(x)
        head, expected_head = ours.head(list(features.values())), theirs.head(list(expected.values()))
    assert [tuple(f.shape[1:]) for f in features.values()] == [
        (512, 38, 38),
        (1024, 19, 19),
        (512, 10, 10),
        (256, 5, 5),
        (256, 3, 3),
        (256, 1, 1),
    ]
    for a, b in [
        *zip(features.values(), expected.values(), strict=True),
        *((head[k], expected_head[k]) for k in expected_head),
    ]:
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    for key in ("aspect_ratios", "scales", "steps"):
        assert getattr(ours.anchor_generator, key) == getattr(theirs.anchor_generator, key)
    assert (ours.transform.image_mean, ours.transform.image_std) == (
        theirs.transform.image_mean,
        theirs.transform.image_std,
    )
    for model in (ours, theirs):
        model.score_thresh = 0.0
    with torch.no_grad():
        a, b = ours([x[0].sigmoid()])[0], theirs([x[0].sigmoid()])[0]
    assert len(a["boxes"]) and all(torch.equal(a[k], b[k]) for k in b)


@pytest.mark.parametrize(
    "name, build",
    [
        ("SSD300-VGG16", ssd300_vgg16),
        ("FasterRCNN-R50", fasterrcnn_resnet50_fpn),
        ("RetinaNet-R50", retinanet_resnet50_fpn),
        ("FCOS-R50", fcos_resnet50_fpn),
        ("MaskRCNN-R50", maskrcnn_resnet50_fpn),
    ],
)
def test_checkpoints_load_in_plain_torchvision(name, build):
    with torch.device("meta"):
        theirs = build(**BARE)
    ours = paper(name, norm="frozen" if name.startswith("SSD") else "batch")
    shapes = [{k: tuple(v.shape) for k, v in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1] and parameter_count(ours) == sum(p.numel() for p in theirs.parameters())


def conv(inputs, outputs, kernel=1, bias=True):
    return inputs * outputs * kernel**2 + bias * outputs


def ssd512():
    """VGG16 to conv5_3, fc6, fc7, five extra pairs, a scale per conv4_3 channel, two heads."""
    plan = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    vgg = sum(conv(a, b, 3) for a, b in pairwise(plan))
    extra = [(1024, 256, 512, 3), (512, 128, 256, 3), *2 * [(256, 128, 256, 3)], (256, 128, 256, 4)]
    pairs = sum(conv(a, b) + conv(b, c, k) for a, b, c, k in extra)
    heads = zip([512, 1024, 512, 256, 256, 256, 256], [4, 6, 6, 6, 6, 4, 4], strict=True)
    return (
        vgg
        + conv(512, 1024, 3)
        + conv(1024, 1024)
        + pairs
        + 512
        + sum(conv(c, n * (81 + 4), 3) for c, n in heads)
    )


def faster_rcnn(body, stages):
    """A pyramid of 256 channels, the RPN's three anchors, and the box head, on a body of frozen norms."""
    pyramid = sum(conv(c, 256) + conv(256, 256, 3) for c in stages)
    rpn = conv(256, 256, 3) + conv(256, 3) + conv(256, 12)
    box_head = conv(256 * 49, 1024) + conv(1024, 1024) + conv(1024, 81) + conv(1024, 4 * 81)
    return body + pyramid + rpn + box_head


def bottlenecks(stem, blocks):
    """Convolutions of a bottleneck ResNet."""
    total, inputs = conv(3, stem, 7, False), stem
    for stage, count in enumerate(blocks):
        planes = stem * 2**stage
        total += conv(inputs, 4 * planes, 1, False)
        for _ in range(count):
            total += inputs * planes + 9 * planes**2 + planes * 4 * planes
            inputs = 4 * planes
    return total


def mobilenet_v2():
    """Convolutions of MobileNetV2's 17 inverted residuals and its stem (table 2 of its paper)."""
    total, inputs = conv(3, 32, 3, False), 32
    for t, c, n in [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]:
        for _ in range(n):
            wide = t * inputs
            total += (t > 1) * inputs * wide + 9 * wide + wide * c
            inputs = c
    return total


@pytest.mark.parametrize(
    "name, expected",
    [
        ("SSD512-VGG16", ssd512()),
        ("FasterRCNN-QR50", faster_rcnn(bottlenecks(16, [3, 4, 6, 3]), [64, 128, 256, 512])),
        ("FasterRCNN-R50", faster_rcnn(bottlenecks(64, [3, 4, 6, 3]), [256, 512, 1024, 2048])),
        ("FasterRCNN-R101", faster_rcnn(bottlenecks(64, [3, 4, 23, 3]), [256, 512, 1024, 2048])),
        ("FasterRCNN-MV2", faster_rcnn(mobilenet_v2(), [24, 32, 96, 320])),
    ],
)
def test_parameter_counts_by_formula(name, expected):
    assert parameter_count(paper(name)) == expected


@pytest.mark.parametrize(
    "name, sides, anchors",
    [("SSD300-VGG16", [38, 19, 10, 5, 3, 1], 8732), ("SSD512-VGG16", [64, 32, 16, 8, 4, 2, 1], 24564)],
)
def test_ssd_maps_and_default_boxes_are_the_papers(name, sides, anchors):
    model = paper(name)
    maps = model.backbone(torch.zeros(1, 3, *model.transform.fixed_size, device="meta")).values()
    assert [m.shape[-1] for m in maps] == sides
    counts = model.anchor_generator.num_anchors_per_location()
    assert sum(n * side**2 for n, side in zip(counts, sides, strict=True)) == anchors


def test_qr50_has_a_quarter_of_r50s_channels():
    bodies = [paper(f"FasterRCNN-{kind}").backbone.body.named_parameters() for kind in ("QR50", "R50")]
    for (name, slim), (other, full) in zip(*bodies, strict=True):
        assert name == other and slim.shape[0] * 4 == full.shape[0] and slim.shape[2:] == full.shape[2:]
        assert name == "conv1.weight" or slim.shape[1] * 4 == full.shape[1]


@pytest.mark.parametrize("name", [n for n, a in ARCHITECTURES.items() if a.family.name != "ssd"])
def test_frozen_stages_and_norms(name):
    body = paper(name, frozen_stages=2).backbone.body
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in body.modules())
    frozen = {k.split(".")[0] for k, p in body.named_parameters() if not p.requires_grad}
    mobilenets = {"MV2": 4, "MV1": 7, "MV1x025": 7}  # layers up to the last one of stride 4
    last = mobilenets.get(name.split("-")[1])
    assert frozen == ({str(i) for i in range(last)} if last else {"conv1", "layer1"})


@pytest.mark.parametrize(
    "name, sides",
    [
        ("FasterRCNN-R50", [16, 8, 4, 2, 1]),
        ("FasterRCNN-QR50", [16, 8, 4, 2, 1]),
        ("FasterRCNN-MV2", [16, 8, 4, 2, 1]),
        ("FasterRCNN-MV1x025", [16, 8, 4, 2, 1]),
        ("FasterRCNN-MV1", [16, 8, 4, 2, 1]),
        ("FasterRCNN-MV1x025 first_level=3", [8, 4, 2, 1]),
        ("FasterRCNN-R50 first_level=3", [8, 4, 2, 1]),
        ("RetinaNet-MV1x025", [8, 4, 2, 1, 1]),
        ("RetinaNet-R50", [8, 4, 2, 1, 1]),
    ],
)
@pytest.mark.parametrize("depth", [0.34, 0.5, 1.0])
def test_any_depth_keeps_the_strides(name, sides, depth):
    """Levels of stride 4 to 32 and a pool (Faster R-CNN), or 8 to 32, P6 and P7 (RetinaNet), of 64 pixels."""
    with torch.device("meta"):
        model = smoke(f"{name} depth={depth}", 3).model
        assert [m.shape[-1] for m in model.backbone(torch.zeros(2, 3, 64, 64)).values()] == sides
    if "MV" not in name:
        blocks = [len(model.backbone.body[f"layer{i}"]) for i in (1, 2, 3, 4)]
        assert blocks == {0.34: [1, 1, 2, 1], 0.5: [2, 2, 3, 2], 1.0: [3, 4, 6, 3]}[depth]


def test_a_small_ssd_overfits_four_images():
    torch.manual_seed(0)
    step = smoke("SSD300-VGG16", classes=2)
    images, targets = [], []
    for row, (x, y) in enumerate([(6, 6), (30, 10), (12, 28), (26, 30)]):
        image = 0.2 * torch.rand(3, 64, 64)
        image[row % 2, y : y + 28, x : x + 28] = 1
        images.append(image)
        box = torch.tensor([[x, y, x + 28.0, y + 28]])
        targets.append({"boxes": box, "labels": torch.tensor([row % 2 + 1])})
    optimizer, losses = torch.optim.Adam(step.parameters(), 3e-3), []
    for _ in range(60):
        loss = sum(step(images, targets).task_losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5


def test_initial_weights_round_trip(tmp_path):
    source = build_body("qr50", 0.5, 1.0, "batch")
    save_file(source.state_dict(), tmp_path / "qr50.safetensors")
    for given in (tmp_path / "qr50.safetensors", str(tmp_path / "qr50.safetensors"), source.state_dict()):
        body = build_body("qr50", 0.5, 1.0, "frozen")  # which counts no batches
        load_initial_weights(body, "qr50", given)
        assert all(torch.equal(v, source.state_dict()[k]) for k, v in body.state_dict().items())
    e = experiment("smoke", "SSD300-VGG16")
    body = build_body("vgg16", e.width, 1.0, e.norm)
    model = build_student(e, 3, body.state_dict()).model
    theirs = [*model.backbone.features.parameters(), *model.backbone.extra[0][:-1].parameters()]
    assert all(torch.equal(a, b) for a, b in zip(theirs, body.parameters(), strict=True))


def test_initial_weights_errors_name_what_is_wrong(tmp_path):
    body, state = build_body("mv2", 0.25, 1.0, "batch"), build_body("mv2", 0.25, 1.0, "batch").state_dict()
    kept = {k: v.clone() for k, v in body.state_dict().items()}
    state["0.0.weight"] = state["0.0.weight"][:, :2]
    del state["0.1.bias"]
    state["classifier.weight"] = torch.zeros(1)
    message = (
        r"mv2: missing 0.1.bias; unexpected classifier.weight; 0.0.weight is \(\d+, 2, 3, 3\), "
        r"needs \(\d+, 3, 3, 3\)"
    )
    with pytest.raises(WeightsError, match=message):
        load_initial_weights(body, "mv2", state)
    assert all(torch.equal(v, kept[k]) for k, v in body.state_dict().items())
    with pytest.raises(WeightsError, match="nowhere"):
        load_initial_weights(body, "mv2", tmp_path / "nowhere.safetensors")
    with pytest.raises(WeightsError, match="backbone_weights=FILE.safetensors"):
        load_initial_weights(build_body("qr50", 0.25, 1.0, "batch"), "qr50", "imagenet")


@pytest.mark.parametrize(
    "kind, name",
    [
        ("r50", "resnet50"),
        ("r101", "resnet101"),
        ("mv2", "mobilenet_v2"),
        ("vgg16", "vgg16"),
        ("vgg19", "vgg19"),
    ],
)
def test_torchvisions_imagenet_weights_fit(monkeypatch, kind, name):
    """Published weights go in unchanged; VGG19's first layer is moved to SSD's grey levels."""
    device = "cpu" if kind in ("mv2", "vgg19") else "meta"
    with torch.device(device):
        published = getattr(torchvision.models, name)(weights=None).state_dict()
        body = build_body(kind, 1.0, 1.0, "frozen")

    def get_state_dict(weights, check_hash, **_):
        assert check_hash and weights.name == ("IMAGENET1K_FEATURES" if kind == "vgg16" else "IMAGENET1K_V1")
        return published

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", get_state_dict)
    load_initial_weights(body, kind, "imagenet")
    loaded, prefix = body.state_dict(), "" if kind[0] == "r" else "features."
    if kind == "vgg19":
        image, mean = torch.rand(1, 3, 8, 8), torch.tensor(VGG_MEAN)[:, None, None]
        theirs = (image - mean) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        weight, bias = published["features.0.weight"], published["features.0.bias"]
        expected = torch.conv2d(theirs, weight, bias, padding=1)
        torch.testing.assert_close(body[0](255 * (image - mean)), expected)
        loaded.pop("0.weight")
    if device == "cpu":
        assert all(torch.equal(v, published[prefix + k]) for k, v in loaded.items())


def test_a_damaged_download_of_imagenet_weights_is_loaded_again(monkeypatch, tmp_path, capsys):
    """torch itself compares a file with the hash in its name while it downloads, not later."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    published = torchvision.models.mobilenet_v2(weights=None).state_dict()
    torch.save(published, tmp_path / "weights")
    content = (tmp_path / "weights").read_bytes()
    origin = (tmp_path / "weights").rename(tmp_path / f"net-{sha256(content)[:8]}.pth")
    imagenet = SimpleNamespace(
        url=origin.as_uri(), get_state_dict=partial(load_state_dict_from_url, origin.as_uri())
    )
    monkeypatch.setitem(backbones.IMAGENET, "mv2", imagenet)
    kept, body = tmp_path / "torch/hub/checkpoints" / origin.name, build_body("mv2", 1.0, 1.0, "frozen")
    load_initial_weights(body, "mv2", "imagenet")
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged in (flipped, content[:middle]):
        kept.write_bytes(damaged)
        capsys.readouterr()
        load_initial_weights(body, "mv2", "imagenet")
        assert f"{kept}: damaged" in capsys.readouterr().err and kept.read_bytes() == content
        assert all(torch.equal(v, published[f"features.{k}"]) for k, v in body.state_dict().items())
    origin.unlink()
    load_initial_weights(body, "mv2", "imagenet")  # what is whole is not downloaded again


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match="unknown backbone 'efficientnet'"):
        build_body("efficientnet", 1.0, 1.0, "batch")
