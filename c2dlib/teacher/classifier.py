"""The classification teacher: any timm classifier, frozen by construction, that reads crops."""

from __future__ import annotations

import copy
from typing import ClassVar

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from c2dlib.config.weights import WeightsError, weights_path
from c2dlib.detectors.backbones import ConvNorm, load_initial_weights, mobilenet_v1, read_weights
from c2dlib.detectors.train_output import TeacherReading

MOBILENET = "mobilenet_v1"  # built here: timm's has another padding, and no weights at most widths


class MobileNetV1Classifier(nn.Module):
    """MobileNetV1 without its last block, then pooling, dropout and a linear layer.

    The last block is left out so that the nets of all widths are alike: of the one of full width half the
    block's published weights are missing where the others' are at hand.
    """

    pretrained_cfg: ClassVar[dict] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

    def __init__(self, num_classes: int, width: float):
        super().__init__()
        self.body = mobilenet_v1(width, blocks=12)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(self.body[-1].out_channels, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def forward_intermediates(self, x: Tensor, indices: list[int], **_) -> list[Tensor]:
        """The maps of timm's method of that name: 0 is the first convolution's, 1 the first of stride 4."""
        maps = []
        for index in indices:
            first, last = [(0, 1), (1, 7), (7, 11), (11, 23), (23, 25)][index]
            maps.append(x := self.body[first:last](x))
        return maps


def build_classifier(
    name: str, num_classes: int, size: int, width: float = 1.0, pretrained: bool = False, weights: str = ""
) -> nn.Module:
    """A timm classifier with ``num_classes`` outputs, or ``mobilenet_v1`` (at any width).

    Args:
        weights: a .safetensors file of initial weights of everything but the last linear layer, see
            ``weights.weights_path``.
        size: side of the crops that it will read; a transformer is built for one size.
        width: factor on the channels of a timm ResNet's four stages (not its stem); 1 for other
            architectures.

    Raises:
        ValueError: if timm does not know ``name`` (the nearest names are given), or it cannot be slimmed.
        WeightsError: if the weights do not fit, naming keys.
    """
    if name == MOBILENET:
        classifier = MobileNetV1Classifier(num_classes, width)
        if weights:
            load_initial_weights(classifier.body, "mv1", weights)
        elif pretrained:
            raise WeightsError(
                "teacher=mobilenet_v1 has no weights to download: name a file, "
                "teacher_weights=FILE.safetensors, or start from random weights, teacher_pretrained=false"
            )
        return classifier
    classifier = _timm_classifier(name, num_classes, size, width, pretrained and not weights)
    if weights:
        _load_but_last(classifier, weights)
    return classifier


def _load_but_last(classifier: nn.Module, weights: str) -> None:
    """Weights of a timm classifier's file; those of its last layer only where they fit the classes."""
    path, needed = weights_path(weights), classifier.state_dict()
    last = tuple(classifier.pretrained_cfg["classifier"] + end for end in (".weight", ".bias"))
    stored = read_weights(weights)
    state = {k: v for k, v in stored.items() if k not in last or v.shape == needed[k].shape}
    problems = [
        f"missing {k}"
        for k in needed.keys() - state.keys()
        if k not in last and not k.endswith("num_batches_tracked")
    ]
    problems += [f"unexpected {k}" for k in state.keys() - needed.keys()]
    problems += [
        f"{k} is {tuple(state[k].shape)}, needs {tuple(needed[k].shape)}"
        for k in needed.keys() & state.keys()
        if state[k].shape != needed[k].shape
    ]
    if problems:
        raise WeightsError(
            f"{path} does not fit the teacher: "
            + "; ".join(sorted(problems)[:10])
            + (f" ... and {len(problems) - 10} more" if len(problems) > 10 else "")
        )
    classifier.load_state_dict(state, strict=False)


def _timm_classifier(name: str, num_classes: int, size: int, width: float, pretrained: bool) -> nn.Module:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:6]}*")[:8]
        raise ValueError(
            f"teacher={name!r} is not a timm model" + (f"; near: {', '.join(near)}" if near else "")
        )
    if width == 1.0:
        config = timm.get_pretrained_cfg(name)
        fixed = {"img_size": size} if config and config.fixed_input_size else {}
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **fixed)
    if not name.startswith("resn"):
        raise ValueError(f"teacher_width={width}: only timm's ResNets can be slimmed, not {name!r}")
    channels = tuple(max(8, round(c * width)) for c in (64, 128, 256, 512))
    return timm.create_model(name, pretrained=False, num_classes=num_classes, channels=channels)


class SpaceToDepthConv(nn.Module):
    """A 7x7 convolution of stride 2 as a 4x4 one on 2x2 blocks: the same sums, a faster backward pass."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight = nn.Parameter(
            F.pixel_unshuffle(F.pad(conv.weight.detach(), (1, 0, 1, 0)), 2)
        )  # [C, 12, 4, 4]
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)), 2)
        return F.conv2d(F.pad(blocks, (2, 1, 2, 1)), self.weight, self.bias)


def for_reading(classifier: nn.Module) -> nn.Module:
    """A frozen copy in eval mode that computes the same, faster where it is a timm ResNet or a MobileNetV1.

    Its BatchNorms are folded into the convolutions before them, its stem reads 2x2 blocks: KD_loc sends a
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
        if isinstance(stem, nn.Conv2d) and (stem.kernel_size, stem.stride, stem.padding) == (
            (7, 7),
            (2, 2),
            (3, 3),
        ):
            classifier.conv1 = SpaceToDepthConv(stem)
    for layer in classifier.modules():
        if isinstance(layer, ConvNorm):
            layer[0], layer[1] = fuse_conv_bn_eval(layer[0], layer[1]), nn.Identity()
    return classifier.requires_grad_(False).to(memory_format=torch.channels_last)


class Teacher(nn.Module):
    """A trained classifier in eval mode for good, of which no parameter takes a gradient.

    Crops come in 0..255 units, whatever the student's normalisation; the teacher applies its own.

    Args:
        classifier: with ``num_classes`` outputs and timm's ``pretrained_cfg``; a copy of it is kept.
        size: side of the crops that it reads, in pixels.
        dtype: of its weights and of its arithmetic, also under autocast. bfloat16 is faster where the
            processor has it (avx512_bf16, AMX, GPUs); logits and maps come back in float32, with bfloat16's
            three digits.
    """

    mean: Tensor  # [3, 1, 1] in 0..255
    std: Tensor  # [3, 1, 1] in 0..255

    def __init__(
        self, classifier: nn.Module, num_classes: int, size: int, dtype: torch.dtype = torch.float32
    ):
        super().__init__()
        self.num_classes, self.size, self.dtype = num_classes, size, dtype
        self.classifier = for_reading(classifier).to(dtype)
        config = classifier.pretrained_cfg
        self.register_buffer("mean", 255 * torch.tensor(config["mean"])[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(config["std"])[:, None, None])
        super().train(False)

    def train(self, mode: bool = True) -> Teacher:
        return self  # frozen: no batch statistics, no dropout

    def early(self, crops: Tensor, layers: int) -> list[Tensor]:
        """The first ``layers`` feature maps of crops [N, 3, s, s] in 0..255; differentiable in the crops.

        They are timm's first intermediate maps. Of a ResNet l0 is the first convolution with norm, activation
        and max-pool, l1 the next stage (section 4.3); of other nets l0 may be a whole stage. No layer after
        the last of these maps is run.
        """
        with torch.autocast(crops.device.type, enabled=False):
            maps = self.classifier.forward_intermediates(
                self._normalised(crops),
                indices=list(range(layers)),
                stop_early=True,
                intermediates_only=True,
            )
        pool = getattr(self.classifier, "maxpool", None)
        maps = [pool(maps[0]) if pool is not None else maps[0], *maps[1:]]
        return [early_map.float() for early_map in maps]

    def _normalised(self, crops: Tensor) -> Tensor:
        return torch.addcmul(-self.mean / self.std, crops, 1 / self.std).to(self.dtype)

    @torch.no_grad()
    def read(self, crops: Tensor, layers: int = 0) -> TeacherReading:
        """Logits [N, C] of crops [N, 3, s, s] in 0..255, and the first ``layers`` maps."""
        with torch.autocast(crops.device.type, enabled=False):
            logits = self.classifier(self._normalised(crops)).float()
        return TeacherReading(logits, self.early(crops, layers) if layers else [])


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """ECE (Guo et al. 2017) in percent: |confidence - accuracy| of ``bins`` equal bins, weighted by size."""
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
