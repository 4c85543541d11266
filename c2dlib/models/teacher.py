"""The teacher: any timm classifier, frozen by construction, that reads crops."""

from __future__ import annotations

import copy

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from c2dlib.types import TeacherReading


def build_classifier(name: str, num_classes: int, size: int, width: float = 1.0,
                     pretrained: bool = False) -> nn.Module:
    """A timm classifier with ``num_classes`` outputs.

    Args:
        size: side of the crops it will read, which the transformers among them must be told.
        width: factor on the channels of a timm ResNet's four stages (not its stem); 1 for other architectures.

    Raises:
        ValueError: if timm does not know ``name`` (the nearest names are given), or it cannot be slimmed.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:8]
        raise ValueError(f"teacher={name!r} is not a timm model" + (f"; near: {', '.join(near)}" if near else ""))
    if width == 1.0:
        config = timm.get_pretrained_cfg(name)
        fixed = {"img_size": size} if config and config.fixed_input_size else {}
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **fixed)
    if not name.startswith("resn"):
        raise ValueError(f"teacher_width={width}: only timm's ResNets can be slimmed, not {name!r}")
    channels = tuple(max(8, round(c * width)) for c in (64, 128, 256, 512))
    return timm.create_model(name, pretrained=False, num_classes=num_classes, channels=channels)


class SpaceToDepthConv(nn.Module):
    """A 7x7 convolution of stride 2 on 3 channels as a 4x4 one on 2x2 blocks: the same sums, a faster backward."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight = nn.Parameter(F.pixel_unshuffle(F.pad(conv.weight.detach(), (1, 0, 1, 0)), 2))  # [C, 12, 4, 4]
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)), 2)
        return F.conv2d(F.pad(blocks, (2, 1, 2, 1)), self.weight, self.bias)


def for_reading(classifier: nn.Module) -> nn.Module:
    """A frozen copy in eval mode that computes the same, faster where it is a timm ResNet.

    Its BatchNorms are folded into the convolutions before them, its stem sees 2x2 blocks: KD_loc sends a
    gradient through the stem for every positive, and there these two save about a third of the time.
    """
    classifier = copy.deepcopy(classifier).eval().requires_grad_(False)
    if isinstance(classifier, timm.models.resnet.ResNet):
        for module in classifier.modules():
            for conv, norm in (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")):
                pair = getattr(module, conv, None), getattr(module, norm, None)
                if isinstance(pair[0], nn.Conv2d) and isinstance(pair[1], nn.BatchNorm2d):
                    setattr(module, conv, fuse_conv_bn_eval(*pair))
                    setattr(module, norm, nn.Identity())
        stem = classifier.conv1
        if isinstance(stem, nn.Conv2d) and (stem.kernel_size, stem.stride, stem.padding) == ((7, 7), (2, 2), (3, 3)):
            classifier.conv1 = SpaceToDepthConv(stem)
    return classifier.requires_grad_(False).to(memory_format=torch.channels_last)


class Teacher(nn.Module):
    """A trained classifier that only reads: eval mode for good, no parameter takes a gradient.

    Crops come in 0..255 units, whatever the student's normalisation; the teacher applies its own.
    """

    def __init__(self, classifier: nn.Module, num_classes: int, size: int):
        super().__init__()
        self.num_classes, self.size = num_classes, size
        self.classifier = for_reading(classifier)
        config = classifier.pretrained_cfg
        self.register_buffer("mean", 255 * torch.tensor(config["mean"])[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(config["std"])[:, None, None])
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        return self  # frozen: batch statistics and dropout never wake up

    def early(self, crops: Tensor, layers: int) -> list[Tensor]:
        """The first ``layers`` feature maps of crops [N, 3, s, s] in 0..255; differentiable in the crops.

        l0 is the first convolution with norm, activation and max-pool (where the classifier has one), l1 the
        next stage (section 4.3). No layer behind the last one asked for is run.
        """
        maps = self.classifier.forward_intermediates(
            (crops - self.mean) / self.std, indices=list(range(layers)), stop_early=True, intermediates_only=True)
        pool = getattr(self.classifier, "maxpool", None)
        return [pool(maps[0]) if pool is not None else maps[0], *maps[1:]]

    @torch.no_grad()
    def read(self, crops: Tensor, layers: int = 0) -> TeacherReading:
        """Logits [N, C] of crops [N, 3, s, s] in 0..255, and the first ``layers`` maps."""
        logits = self.classifier((crops - self.mean) / self.std).float()
        return TeacherReading(logits, self.early(crops, layers) if layers else [])


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """ECE (Guo et al. 2017) in percent: |confidence - accuracy| over ``bins`` equal bins, weighted by size."""
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == labels).float()
    which = (confidence * bins).long().clamp(max=bins - 1)
    size = torch.bincount(which, minlength=bins)
    gap = torch.bincount(which, weights=(confidence - correct).double(), minlength=bins).abs()
    return float(100 * gap.sum() / size.sum())


def classifier_loss(logits: Tensor, labels: Tensor, sigmoid_too: bool) -> Tensor:
    """Softmax cross-entropy; for the teacher of both head kinds plus binary cross-entropy (section 4)."""
    loss = F.cross_entropy(logits, labels)
    if sigmoid_too:
        one_hot = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        loss = loss + F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(1).mean()
    return loss
