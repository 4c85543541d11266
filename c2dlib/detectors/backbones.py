"""Backbones at any width, their initial weights, and their pyramids: torchvision's classes throughout."""

from __future__ import annotations

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import (
    MobileNet_V2_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    VGG16_Weights,
    VGG19_Weights,
)
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7
from torchvision.ops.misc import ConvNormActivation

from c2dlib.config.weights import WeightsError, weights_path
from c2dlib.data.augment import VGG_STD
from c2dlib.detectors.ssd import vgg_features
from c2dlib.files import sha256

IMAGENET = {
    "r50": ResNet50_Weights.IMAGENET1K_V1,
    "r101": ResNet101_Weights.IMAGENET1K_V1,
    "mv2": MobileNet_V2_Weights.IMAGENET1K_V1,
    "vgg16": VGG16_Weights.IMAGENET1K_FEATURES,
    "vgg19": VGG19_Weights.IMAGENET1K_V1,
}
NO_IMAGENET = {
    "qr50": "The paper trained it (66.33 % top-1) and did not publish it. ",
    "mv1": "Those of Keras Applications fit, renamed to the keys of `mobilenet_v1`. ",
}
NO_IMAGENET["mv1x025"] = NO_IMAGENET["mv1"]
MV2_STAGES = [
    [1, 16, 1, 1],
    [6, 24, 2, 2],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]  # Table 2 of the MobileNetV2 paper: expansion, channels, blocks, stride


MV1_BLOCKS = [
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
]  # Table 1 of the MobileNetV1 paper: output channels, depthwise stride


class SlimResNet(ResNet):
    """torchvision's bottleneck ResNet with every channel count times ``width`` (QR50: a quarter)."""

    def __init__(self, layers: list[int], width: float, norm_layer):
        self.width = width
        super().__init__(Bottleneck, layers, norm_layer=norm_layer)
        stem = round(64 * width)
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = norm_layer(stem)
        self.fc = nn.Linear(self.inplanes, 1000)

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:  # the first stage: torchvision assumes a stem of 64 channels
            self.inplanes = round(64 * self.width)
        return super()._make_layer(block, round(planes * self.width), blocks, stride, dilate)


class SamePadConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 2 that pads as TensorFlow does: an even side only at its far end."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1)))


class ConvNorm(ConvNormActivation):
    """Convolution, norm and ReLU6: a layer of MobileNetV1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, norm_layer):
        strided = stride == 2
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            0 if strided else None,
            groups,
            norm_layer,
            nn.ReLU6,
            conv_layer=SamePadConv2d if strided else nn.Conv2d,
        )
        self.stride = stride


def mobilenet_v1(width: float, norm: str = "batch", blocks: int = 13) -> nn.Sequential:
    """MobileNetV1 (Howard et al. 2017) without its classifier.

    It has a convolution, then a depthwise and a pointwise layer per block. Layer i has the keys
    ``{i}.0.weight`` and ``{i}.1.*``; the maps of stride 4, 8, 16, 32 are those of layers 6, 10, 22, 26.

    Args:
        width: factor on the published channel counts.
        norm: ``frozen`` or ``batch``, as for ``build_body``.
        blocks: how many of the 13 blocks are built.
    """
    layer = partial(FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d, eps=1e-3)
    inputs = round(32 * width)
    layers = [ConvNorm(3, inputs, 3, 2, 1, layer)]
    for channels, stride in MV1_BLOCKS[:blocks]:
        outputs = round(channels * width)
        layers += [
            ConvNorm(inputs, inputs, 3, stride, inputs, layer),
            ConvNorm(inputs, outputs, 1, 1, 1, layer),
        ]
        inputs = outputs
    return nn.Sequential(*layers)


def build_body(kind: str, width: float, depth: float, norm: str) -> nn.Module:
    """A classification backbone without its classifier.

    Args:
        kind: ``r50``, ``qr50``, ``r101``, ``mv1``, ``mv1x025``, ``mv2``, ``vgg16`` or ``vgg19``.
        width: factor on the published channel counts (``qr50`` is ``r50`` and ``mv1x025`` is MobileNetV1 with
            a quarter on top).
        depth: factor on the published number of residual blocks per stage, at least one; not for ``vgg`` and
            ``mv1``.
        norm: ``frozen`` (statistics of the initial weights, as in the paper) or ``batch``.

    Raises:
        ValueError: for another ``kind``.
    """
    layer = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    if kind.startswith("vgg"):
        return vgg_features(int(kind[3:]), width, batch_norm=norm == "batch")
    if kind == "mv1x025":
        return mobilenet_v1(width / 4, norm)
    if kind == "mv1":  # without its last block, of which the published weights at hand lack a half
        return mobilenet_v1(width, norm, blocks=12)
    if kind == "mv2":
        stages = [[t, c, max(1, round(n * depth)), s] for t, c, n, s in MV2_STAGES]
        model = MobileNetV2(width_mult=width, inverted_residual_setting=stages, norm_layer=layer)
        return model.features[:-1]  # without the layer of 1280 channels
    if kind not in ("r50", "qr50", "r101"):
        raise ValueError(f"unknown backbone {kind!r}: detectors/backbones.build_body does not build it")
    blocks = [3, 4, 23, 3] if kind == "r101" else [3, 4, 6, 3]
    body = SlimResNet(
        [max(1, round(n * depth)) for n in blocks], width / 4 if kind == "qr50" else width, layer
    )
    body.fc = nn.Identity()
    return body


def read_weights(reference: str) -> dict[str, Tensor]:
    """The tensors of the file ``weights_path(reference)`` by key.

    Raises:
        WeightsError: if there is no such file, it has another hash, or it is not in the safetensors format.
    """
    path = weights_path(reference)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(
            f"{path}: is not in the safetensors format, or not whole ({error}). Copy the file again, or save "
            "its weights with safetensors.torch.save_file(state_dict, 'NAME.safetensors')."
        ) from error


def _remove_damaged_download(url: str) -> None:
    """Remove torch's copy of a downloaded file, if its content does not have the hash in its name.

    torch compares them while it downloads, not when it reads the copy.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name  # NAME-HASH.pth
    if path.exists() and not sha256(path.read_bytes()).startswith(path.stem.rpartition("-")[2]):
        print(f"{path}: damaged (its content does not match its hash), downloaded again", file=sys.stderr)
        path.unlink(missing_ok=True)


def load_initial_weights(body: nn.Module, kind: str, source: str | Path | dict[str, Tensor]) -> None:
    """Put initial weights into a backbone, strictly.

    Args:
        source: ``imagenet`` (torchvision's published weights, checked by their hash while downloading),
            ``none``, a ``.safetensors`` file, or a state dict.

    Raises:
        WeightsError: naming the missing, unexpected and ill-shaped keys, a file that is not safetensors, or
            what to do without public weights.
    """
    if source == "none":
        return
    if source == "imagenet":
        if kind not in IMAGENET:
            raise WeightsError(
                f"torchvision publishes no ImageNet weights for {kind}. {NO_IMAGENET.get(kind, '')}"
                "Name a file, "
                f"backbone_weights=FILE.safetensors, or start from random weights, backbone_weights=none."
            )
        _remove_damaged_download(IMAGENET[kind].url)
        weights = IMAGENET[kind].get_state_dict(progress=True, check_hash=True)
        prefix = {"v": "features.", "m": "features.", "r": ""}[kind[0]]
        keys = body.state_dict().keys()
        state = {k: weights[prefix + k] for k in keys if prefix + k in weights}
        if kind == "vgg19":  # published for images divided by std; SSD's are in grey levels
            state["0.weight"] = (
                state["0.weight"]
                * torch.tensor(VGG_STD)[:, None, None]
                / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
            )
    elif isinstance(source, dict):
        state = source
    else:
        state = read_weights(str(source))
        if kind.startswith("mv1"):  # a whole classifier's file: what comes after the body is not used
            state = {
                k: v for k, v in state.items() if (i := k.partition(".")[0]).isdigit() and int(i) < len(body)
            }
    ours = body.state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    needed = {k for k in ours if not k.endswith("num_batches_tracked")}
    problems = [f"missing {k}" for k in sorted(needed - state.keys())]
    problems += [f"unexpected {k}" for k in sorted(state.keys() - needed)]
    problems += [
        f"{k} is {tuple(state[k].shape)}, needs {tuple(ours[k].shape)}"
        for k in sorted(needed & state.keys())
        if state[k].shape != ours[k].shape
    ]
    if problems:
        more = f" ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise WeightsError(f"The weights do not fit {kind}: " + "; ".join(problems[:10]) + more)
    body.load_state_dict(state, strict=False)  # strict but for BatchNorm's counters, checked above


def with_pyramid(
    body: nn.Module, kind: str, channels: int, frozen_stages: int, first_level: int, one_stage: bool
) -> nn.Module:
    """A feature pyramid on the stages of stride 2**first_level to 32.

    P6 (Faster R-CNN) or P6 and P7 (RetinaNet, FCOS) are added.

    Args:
        frozen_stages: how many of the first stages keep their initial weights (the stem counts as one).
    """
    if kind.startswith("mv"):
        strided = [
            i for i, block in enumerate(body) if i and getattr(block, "stride", 1) == 2
        ]  # 4, 8, 16, 32
        edges = [0, *strided, len(body)]
        stages = [body[a:b] for a, b in pairwise(edges)]
        names = [str(edge - 1) for edge in edges[2:]]  # the last block before each next stride
        widths = [body[int(i)].out_channels for i in names]
    else:
        stages = [nn.ModuleList([body.conv1, body.bn1]), body.layer1, body.layer2, body.layer3, body.layer4]
        names = ["layer1", "layer2", "layer3", "layer4"]
        widths = [body.get_submodule(name)[-1].conv3.out_channels for name in names]
    for stage in stages[:frozen_stages]:
        stage.requires_grad_(False)
    first = first_level - 2
    extra = LastLevelP6P7(channels, channels) if one_stage else LastLevelMaxPool()
    layers = {name: str(i) for i, name in enumerate(names[first:])}
    return BackboneWithFPN(body, layers, widths[first:], channels, extra)
