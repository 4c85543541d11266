"""SSD (Liu et al. 2016) out of torchvision's parts, and its training step."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG, SSDHead, _xavier_init
from torchvision.models.detection.ssdlite import _extra_block, _normal_init
from torchvision.models.vgg import cfgs, make_layers

from c2dlib.data.augment import VGG_MEAN, VGG_STD
from c2dlib.detectors.matching import (
    feature_maps,
    fp32_anchors,
    fp32_outputs,
    gather_positives,
    match_anchors,
    mean_and_std,
)
from c2dlib.detectors.train_output import TrainOutput

# Section 3.6 and footnote 5 of the SSD paper, COCO settings: default box scales, extra aspect ratios, and
# kernel, stride, padding of each extra layer (SSD512's last is 4x4, padded by 1).
SSD300 = {
    "scales": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
    "extra": [(3, 2, 1), (3, 2, 1), (3, 1, 0), (3, 1, 0)],
    "ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
    "steps": [8, 16, 32, 64, 100, 300],
}
SSD512 = {
    "scales": [0.04, 0.1, 0.26, 0.42, 0.58, 0.74, 0.9, 1.06],
    "extra": [(3, 2, 1), (3, 2, 1), (3, 2, 1), (3, 2, 1), (4, 1, 1)],
    "ratios": [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]],
    "steps": [8, 16, 32, 64, 128, 256, 512],
}


def vgg_features(depth: int, width: float, batch_norm: bool) -> nn.Sequential:
    """VGG's convolutions, each ``width`` times as wide as published."""
    plan = [c if c == "M" else max(8, round(c * width)) for c in cfgs[{16: "D", 19: "E"}[depth]]]
    return make_layers(plan, batch_norm=batch_norm)


class SSDBackbone(SSDFeatureExtractorVGG):
    """torchvision's SSD feature extractor at any width: same layout, same names, same forward.

    At width 1 its weights are interchangeable with torchvision's. Extra layers that would shrink the map
    of a smaller input to nothing are left out.
    """

    def __init__(self, vgg: nn.Sequential, size: int, width: float, plan: dict):
        nn.Module.__init__(self)
        pools = [i for i, layer in enumerate(vgg) if isinstance(layer, nn.MaxPool2d)]
        vgg[pools[2]].ceil_mode = True  # as in the SSD paper: 75 -> 38
        wide = [max(8, round(c * width)) for c in (512, 1024, 512, 256, 256, 256, 256)]
        narrow = [max(8, round(c * width)) for c in (256, 128, 128, 128, 128)]
        self.scale_weight = nn.Parameter(vgg[0].weight.new_full((wide[0],), 20.0))
        self.features = nn.Sequential(*vgg[: pools[3]])  # until conv4_3
        atrous = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(wide[0], wide[1], 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide[1], wide[1], 1),
            nn.ReLU(inplace=True),
        )
        extra = [nn.Sequential(*vgg[pools[3] : -1], atrous)]
        side = size
        for pool in range(4):
            side = -(-side // 2) if pool == 2 else side // 2
        self.out_channels = [wide[0], wide[1]]
        for level, (kernel, stride, padding) in enumerate(plan["extra"]):
            side = (side + 2 * padding - kernel) // stride + 1
            if side < 1:
                break
            extra.append(
                nn.Sequential(
                    nn.Conv2d(wide[level + 1], narrow[level], 1),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(narrow[level], wide[level + 2], kernel, stride, padding),
                    nn.ReLU(inplace=True),
                )
            )
            self.out_channels.append(wide[level + 2])
        self.extra = nn.ModuleList(extra)
        _xavier_init(self.extra[1:])
        _xavier_init(atrous)


def build_ssd(
    num_classes: int,
    size: int,
    plan: dict,
    depth: int = 16,
    width: float = 1.0,
    batch_norm: bool = False,
    anchor_scale: float = 1.0,
    score_threshold: float = 0.02,
) -> SSD:
    """A plain torchvision SSD for ``num_classes`` object classes at ``size`` x ``size`` pixels."""
    backbone = SSDBackbone(vgg_features(depth, width, batch_norm), size, width, plan)
    levels = len(backbone.out_channels)
    anchors = DefaultBoxGenerator(
        plan["ratios"][:levels],
        scales=[s * anchor_scale for s in plan["scales"][: levels + 1]],
        steps=plan["steps"] if size == plan["steps"][-1] else None,
    )
    head = SSDHead(backbone.out_channels, anchors.num_anchors_per_location(), num_classes + 1)
    return SSD(
        backbone,
        anchors,
        (size, size),
        num_classes + 1,
        image_mean=VGG_MEAN,
        image_std=VGG_STD,
        head=head,
        score_thresh=score_threshold,
    )


class MobileNetSSDBackbone(nn.Module):
    """SSD's maps on a MobileNetV1.

    They are its last layers of stride 16 and 32, then the extra layers of torchvision's SSDLite.
    """

    def __init__(self, body: nn.Sequential, width: float):
        super().__init__()
        last = max(
            i for i, layer in enumerate(body) if i and layer.stride == 2
        )  # the first layer of stride 32
        self.features = nn.ModuleList([body[:last], body[last:]])
        self.out_channels = [body[last - 1].out_channels, body[-1].out_channels]
        extra = []
        for channels in (512, 256, 256, 128):
            outputs = max(16, round(channels * width))
            extra.append(_extra_block(self.out_channels[-1], outputs, nn.BatchNorm2d))
            self.out_channels.append(outputs)
        self.extra = nn.ModuleList(extra)
        _normal_init(self.extra)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = []
        for part in (*self.features, *self.extra):
            x = part(x)
            maps.append(x)
        return OrderedDict((str(i), m) for i, m in enumerate(maps))


def build_mobilenet_ssd(
    body: nn.Sequential,
    num_classes: int,
    size: int,
    width: float,
    anchor_scale: float = 1.0,
    score_threshold: float = 0.02,
) -> SSD:
    """A torchvision SSD on six maps of a MobileNetV1.

    It has SSD's own heads and the anchors of torchvision's SSDLite.

    Args:
        body: see ``detectors.backbones.mobilenet_v1``.
        width: factor on the published channel counts of the extra layers.
    """
    backbone = MobileNetSSDBackbone(body, width)
    scales = [anchor_scale * (0.2 + 0.15 * level) for level in range(6)] + [anchor_scale]
    anchors = DefaultBoxGenerator([[2, 3]] * 6, scales=scales)
    head = SSDHead(backbone.out_channels, anchors.num_anchors_per_location(), num_classes + 1)
    return SSD(backbone, anchors, (size, size), num_classes + 1, head=head, score_thresh=score_threshold)


def last_object_matches(matcher: SSDMatcher, quality: Tensor) -> Tensor:
    """torchvision's matches for SSD; of several objects with the same best anchor the last one gets it.

    So it is in torchvision on a CPU. On a GPU its assignment leaves open which of them does.

    Args:
        quality: [G, A] IoU of objects and anchors.

    Returns:
        [A] the row of the object each anchor is matched to; negative if none.
    """
    best = quality.max(dim=1).indices  # [G], as torchvision computes it
    objects = torch.arange(len(best), device=best.device)
    return matcher(quality).scatter_reduce(0, best, objects, "amax", include_self=False)


class SSDStep(nn.Module):
    """One training step of a torchvision SSD; its losses equal ``model(images, targets)``."""

    one_stage = True

    def __init__(self, model: SSD):
        super().__init__()
        self.model = model

    def forward(self, images: list[Tensor], targets: list[dict]) -> TrainOutput:
        model = self.model
        batch, targets = model.transform(images, targets)
        features = feature_maps(model.backbone, batch.tensors)
        head = fp32_outputs(model.head, features)
        anchors = fp32_anchors(model.anchor_generator, batch, features)
        matcher = partial(last_object_matches, model.proposal_matcher)
        matches = match_anchors(matcher, anchors, targets)
        losses = model.compute_loss(targets, head, anchors, matches)
        positives = gather_positives(
            matches,
            targets,
            anchors,
            head["cls_logits"],
            head["bbox_regression"],
            model.box_coder.decode_single,
            softmax=True,
        )
        return TrainOutput(
            batch.tensors,
            *mean_and_std(model.transform, batch.tensors),
            targets,
            features,
            losses,
            positives,
            divisors=dict.fromkeys(losses, len(positives.labels)),
        )
