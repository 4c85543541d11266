"""MobileNetV1: a reference with explicit padding, the published layout, and weights that do not fit."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d
from torchvision.transforms.v2.functional import pil_to_tensor

from c2dlib.config import weights
from c2dlib.config.experiment import experiment
from c2dlib.config.weights import WeightsError, identity
from c2dlib.detectors.backbones import SamePadConv2d, build_body, load_initial_weights, mobilenet_v1
from c2dlib.teacher.classifier import Teacher, build_classifier

STRIDES = [
    2,
    1,
    2,
    1,
    2,
    1,
    2,
    1,
    1,
    1,
    1,
    1,
    2,
    1,
]  # of the first convolution and of each block's depthwise one
CHANNELS = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]  # after each of them


def randomised(net):
    """The net with statistics and factors of its norms that are not trivial."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            for value, (low, high) in (
                (module.running_mean, (-0.2, 0.2)),
                (module.running_var, (0.5, 2.0)),
                (module.weight.data, (0.5, 2.0)),
                (module.bias.data, (-0.2, 0.5)),
            ):
                value.uniform_(low, high)
    return net.eval()


def reference(state, x, layers):
    """The maps of all layers, by torch; a strided layer pads (left 0, right 1, top 0, bottom 1)."""
    maps = []
    for i in range(layers):
        weight = state[f"{i}.0.weight"]
        stride = STRIDES[(i + 1) // 2] if i % 2 or i == 0 else 1
        if stride == 2:
            x = nn.ZeroPad2d((0, 1, 0, 1))(x)
        elif i % 2:
            x = nn.ZeroPad2d(1)(x)
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] if i % 2 else 1)
        mean, var, scale, shift = (
            state[f"{i}.1.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean[:, None, None]) / (var + 1e-3).sqrt()[:, None, None] * scale[:, None, None] + shift[
            :, None, None
        ]
        x = x.clamp(0, 6)
        maps.append(x)
    return maps


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_every_layer_equals_the_reference(norm):
    net = randomised(mobilenet_v1(0.25, norm))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = reference(net.state_dict(), x, 27)
        for i, (layer, expected) in enumerate(zip(net, maps, strict=True)):
            x = layer(x)
            torch.testing.assert_close(
                x, expected, rtol=1e-4, atol=1e-4, msg=lambda text, i=i: f"layer {i}: {text}"
            )
    assert [tuple(maps[i].shape[2:]) for i in (6, 10, 22, 26)] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(
    "height, width, pad",
    [(8, 8, (0, 1, 0, 1)), (9, 9, (1, 1, 1, 1)), (8, 9, (1, 1, 0, 1)), (9, 8, (0, 1, 1, 1))],
)
def test_padding_is_tensorflows(height, width, pad):
    """Outputs are ceil(n / 2); of an odd number of padded rows the far end gets the larger half."""
    torch.manual_seed(0)
    conv, x = SamePadConv2d(2, 3, 3, stride=2), torch.randn(1, 2, height, width)
    torch.testing.assert_close(conv(x), F.conv2d(F.pad(x, pad), conv.weight, conv.bias, stride=2))
    assert conv(x).shape[2:] == (-(-height // 2), -(-width // 2))


@pytest.mark.parametrize("width", [0.25, 1.0])
def test_keys_and_shapes_are_the_published_layout(width):
    with torch.device("meta"):
        state = mobilenet_v1(width).state_dict()
    shapes, inputs = {}, 3
    for i in range(27):
        outputs = round(CHANNELS[(i + 1) // 2 if i % 2 == 0 else i // 2] * width)
        shapes[f"{i}.0.weight"] = (
            (outputs, 3, 3, 3) if i == 0 else (inputs, 1, 3, 3) if i % 2 else (outputs, inputs, 1, 1)
        )
        shapes |= {f"{i}.1.{key}": (outputs,) for key in ("weight", "bias", "running_mean", "running_var")}
        inputs = outputs
    assert {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")} == shapes


def test_bodies_of_detectors():
    """x 0.25 has all 13 blocks; full width leaves out the last."""
    with torch.device("meta"):
        small, full = build_body("mv1x025", 1.0, 1.0, "batch"), build_body("mv1", 1.0, 1.0, "frozen")
    assert (
        len(small) == 27
        and small[-1].out_channels == 256
        and len(full) == 25
        and full[-1].out_channels == 1024
    )
    assert (
        isinstance(small[0][1], nn.BatchNorm2d)
        and isinstance(full[0][1], FrozenBatchNorm2d)
        and full[0][1].eps == 1e-3
    )


# ---- weights


@pytest.fixture
def published(tmp_path):
    """A file in the published layout, x 0.25, with its classifier."""
    state = randomised(mobilenet_v1(0.25)).state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    save_file(
        state | {"classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)},
        tmp_path / "mv1.safetensors",
    )
    return tmp_path / "mv1.safetensors"


def test_a_classifiers_file_fills_body_and_teacher(published):
    state = load_file(published)
    body = build_body("mv1x025", 1.0, 1.0, "frozen")
    load_initial_weights(body, "mv1x025", published)
    assert all(torch.equal(v, state[k]) for k, v in body.state_dict().items())
    teacher = build_classifier("mobilenet_v1", 5, 64, width=0.25, weights=str(published))
    loaded = teacher.body.state_dict()
    assert max(int(k.split(".")[0]) for k in loaded) == 24  # without the last block
    assert all(torch.equal(v, state[k]) for k, v in loaded.items() if not k.endswith("num_batches_tracked"))
    assert teacher.head[-1].weight.shape == (5, 256)


def test_weights_of_another_width_are_refused(published):
    message = r"do not fit mv1: .*0.0.weight is \(8, 3, 3, 3\), needs \(32, 3, 3, 3\).* and \d+ more"
    with pytest.raises(WeightsError, match=message):
        load_initial_weights(build_body("mv1", 1.0, 1.0, "batch"), "mv1", published)
    with pytest.raises(WeightsError, match=message):
        build_classifier("mobilenet_v1", 5, 64, weights=str(published))


def test_missing_layers_are_named(published, tmp_path):
    state = load_file(published)
    save_file({k: v for k, v in state.items() if not k.startswith("26.")}, tmp_path / "short.safetensors")
    with pytest.raises(WeightsError, match=r"do not fit mv1x025: missing 26.0.weight; missing 26.1.bias"):
        load_initial_weights(
            build_body("mv1x025", 1.0, 1.0, "batch"), "mv1x025", tmp_path / "short.safetensors"
        )


def test_files_that_are_absent_or_other_ones(published):
    body = build_body("mv1x025", 1.0, 1.0, "batch")
    with pytest.raises(WeightsError, match=r"nowhere.safetensors: no such file. Put it into runs/weights/"):
        load_initial_weights(body, "mv1x025", "nowhere.safetensors")
    with pytest.raises(WeightsError, match=r"nowhere.safetensors: no such file"):
        build_classifier("mobilenet_v1", 5, 64, weights="nowhere.safetensors")
    with pytest.raises(
        WeightsError, match=r"mv1.safetensors: its content has the hash [0-9a-f]{12}, not 0123456789ab"
    ):
        load_initial_weights(body, "mv1x025", f"{published}@0123456789ab")


def test_what_to_do_without_published_weights():
    for kind in ("mv1", "mv1x025"):
        with pytest.raises(
            WeightsError,
            match=rf"no ImageNet weights .*{kind}.*backbone_weights=FILE.safetensors.*backbone_weights=none",
        ):
            load_initial_weights(build_body(kind, 0.25, 1.0, "batch"), kind, "imagenet")
    with pytest.raises(WeightsError, match="teacher_weights=FILE.safetensors.*teacher_pretrained=false"):
        build_classifier("mobilenet_v1", 5, 64, pretrained=True)


def test_weights_are_identified_by_content(published, tmp_path, monkeypatch):
    """The same content in another folder has the same identity; other content of that name has another."""
    first = identity(str(published))
    name, _, digest = first.partition("@")
    assert name == "mv1.safetensors" and len(digest) == 12
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "mv1.safetensors"
    copy.write_bytes(published.read_bytes())
    assert identity(str(copy)) == first and identity(f"{copy}@{digest}") == first
    assert identity(f"no/such/folder/{first}") == first  # named by content: the file need not be here
    save_file({"0.0.weight": torch.ones(1)}, copy)
    os.utime(copy, ns=(1, 1))  # the clock of a file system may be too coarse to see the change
    assert identity(str(copy)) != first
    assert identity("imagenet") == "imagenet" and identity("none") == "none"
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "elsewhere")
    assert identity("mv1.safetensors") == identity(str(copy))  # a bare name is looked for in runs/weights
    with pytest.raises(WeightsError, match="no such file"):
        identity("nowhere.safetensors")


# ---- files that are no weights, and what a run is identified by


def test_a_wider_net_into_a_narrow_one_names_a_key_with_both_shapes(tmp_path):
    state = {k: v for k, v in mobilenet_v1(1.0).state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match=r"mv1x025: 0.0.weight is \(32, 3, 3, 3\), needs \(8, 3, 3, 3\)"):
        load_initial_weights(
            build_body("mv1x025", 1.0, 1.0, "batch"), "mv1x025", tmp_path / "wide.safetensors"
        )


@pytest.mark.parametrize("content", [b"garbage", b"", b"PK\x03\x04" + bytes(60)])
def test_a_file_that_is_not_safetensors_is_named_in_one_sentence(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    message = rf"^{path}: is not in the safetensors format, or not whole \(.*\)\. Copy the file again.*\.$"
    with pytest.raises(WeightsError, match=message):
        load_initial_weights(build_body("mv1x025", 1.0, 1.0, "batch"), "mv1x025", path)
    with pytest.raises(WeightsError, match=message):
        build_classifier("mobilenet_v1", 5, 64, weights=str(path))
    with pytest.raises(WeightsError, match=message):
        build_classifier("resnet10t", 5, 64, weights=str(path))


def test_a_truncated_file_is_named(published):
    whole = published.read_bytes()
    published.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        WeightsError, match=r"mv1.safetensors: is not in the safetensors format, or not whole"
    ):
        load_initial_weights(build_body("mv1x025", 1.0, 1.0, "batch"), "mv1x025", published)


@pytest.mark.parametrize("setting", ["backbone_weights", "teacher_weights", "detector_teacher_weights"])
@pytest.mark.parametrize("value", ["x.pt", "imagenett", "weights/x.safetensors.gz"])
def test_a_setting_of_weights_is_a_source_or_a_safetensors_file(setting, value):
    with pytest.raises(WeightsError, match=rf"^{setting}={value}: must be .*or a file that ends in .safe"):
        experiment("smoke", "FasterRCNN-MV1x025", **{setting: value})


def test_replacing_a_file_changes_the_hash_of_the_experiment(tmp_path):
    path = tmp_path / "mine.safetensors"

    def hashes() -> list[str]:
        return [
            experiment("photos", "FasterRCNN-MV1x025", "ours", **{name: str(path)}).hash()
            for name in ("backbone_weights", "teacher_weights")
        ]

    save_file({"a": torch.zeros(3)}, path)
    os.utime(path, ns=(1, 1))
    first = hashes()
    save_file({"a": torch.ones(3)}, path)
    os.utime(path, ns=(2, 2))
    second = hashes()
    save_file({"a": torch.zeros(3)}, path)
    os.utime(path, ns=(3, 3))
    assert not set(first) & set(second) and hashes() == first


def test_a_missing_file_of_the_scale_photos_says_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    e = experiment("photos", "FasterRCNN-MV1x025")
    with pytest.raises(WeightsError) as caught:
        load_initial_weights(build_body("mv1x025", 1.0, 1.0, "batch"), "mv1x025", e.backbone_weights)
    for words in (
        "mobilenet_v1_025.safetensors@",
        "runs/weights/",
        "MobileNet (alpha=0.25) from Keras",
        "docs/photographs.md",
    ):
        assert words in str(caught.value), words
    with pytest.raises(WeightsError, match=r"mobilenet_v1_100.*alpha=1.0.*docs/photographs"):
        build_classifier("mobilenet_v1", 5, 64, weights=e.teacher_weights)
    with pytest.raises(WeightsError, match=r"likewise teacher_weights\)\.$"):
        load_initial_weights(build_body("mv1x025", 1.0, 1.0, "batch"), "mv1x025", "mine.safetensors")


def test_the_documented_lines_convert_keras_weights(tmp_path, monkeypatch):
    """Run with a stand-in for Keras; the first layer must compute what Keras' does, away from the border."""
    page = (Path(__file__).parents[2] / "docs" / "photographs.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "import keras" in block]
    made = {}

    class MobileNet:
        def __init__(self, alpha: float, weights: str):
            assert weights == "imagenet"
            self.layers, generator = {}, np.random.default_rng(int(100 * alpha))
            inputs = 3
            shapes = [("conv1", (3, 3, 3, round(32 * alpha)))]
            outputs = [64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
            inputs = round(32 * alpha)
            for block, channels in enumerate(outputs, start=1):
                shapes += [
                    (f"conv_dw_{block}", (3, 3, inputs, 1)),
                    (f"conv_pw_{block}", (1, 1, inputs, inputs := round(channels * alpha))),
                ]
            for name, shape in shapes:
                channels = shape[2] if "dw" in name else shape[3]
                self.layers[name] = [generator.normal(size=shape).astype(np.float32)]
                self.layers[f"{name}_bn"] = [
                    generator.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(4)
                ]
            made[alpha] = self

        def get_layer(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(get_weights=lambda: self.layers[name])

    keras = SimpleNamespace(applications=SimpleNamespace(MobileNet=MobileNet))
    monkeypatch.setitem(sys.modules, "keras", keras)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    for kind, alpha, file in (("mv1x025", 0.25, "025"), ("mv1", 1.0, "100")):
        body = build_body(kind, 1.0, 1.0, "frozen").eval()
        load_initial_weights(body, kind, f"mobilenet_v1_{file}.safetensors")
        levels = 255 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        with torch.no_grad():
            ours = body[0]((levels / 255 - mean) / std)
        (kernel,), (gamma, beta, centre, spread) = (
            made[alpha].layers[name] for name in ("conv1", "conv1_bn")
        )
        patch = (levels / 127.5 - 1)[0, :, 4:7, 6:9].permute(1, 2, 0).numpy()  # under output (2, 3), stride 2
        value = (kernel * patch[..., None]).sum((0, 1, 2))
        expected = np.clip(gamma * (value - centre) / np.sqrt(spread + 1e-3) + beta, 0, 6)
        np.testing.assert_allclose(ours[0, :, 2, 3].numpy(), expected, rtol=1e-4, atol=1e-4)
        depthwise, pointwise = (made[alpha].layers[f"conv_{k}_2"][0] for k in ("dw", "pw"))
        assert torch.equal(body[3][0].weight[5, 0], torch.from_numpy(depthwise[:, :, 5, 0]))
        assert torch.equal(body[4][0].weight[7, 5, 0, 0], torch.tensor(pointwise[0, 0, 5, 7]))


def test_the_published_net_classifies_photographs(shared):
    """All weights of the file load strictly, and the net is sure of some photograph."""
    folder = shared / "data/imagenet"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/imagenet")
    state = load_file(folder / "mobilenet_v1_025.safetensors")
    net = nn.Sequential(
        mobilenet_v1(0.25), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 1000)
    ).eval()
    load_initial_weights(net[0], "mv1x025", folder / "mobilenet_v1_025.safetensors")
    net[3].load_state_dict({key: state[f"classifier.{key}"] for key in ("weight", "bias")})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    sure = []
    for path in sorted((shared / "data/coco-tiny/val2017").glob("*.jpg"))[:12]:
        image = pil_to_tensor(Image.open(path).convert("RGB").resize((224, 224))) / 255
        with torch.no_grad():
            logits = net(((image - mean[:, None, None]) / std[:, None, None])[None])
        assert logits.isfinite().all()
        sure.append(logits.softmax(1).max().item())
    assert max(sure) > 0.2 and len({round(p, 4) for p in sure}) > 6


# ---- as a teacher


def test_the_teacher_reads_as_the_classifier_computes():
    """Folded norms change nothing; l0 and l1 are the first convolution and the maps of stride 4."""
    classifier = randomised(build_classifier("mobilenet_v1", 5, 64, width=0.25))
    teacher, crops = Teacher(classifier, 5, 64), 255 * torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        normalised = (crops - teacher.mean) / teacher.std
        expected = classifier(normalised)
        maps = reference(classifier.body.state_dict(), normalised, 25)
    reading = teacher.read(crops, layers=2)
    torch.testing.assert_close(reading.logits, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        reading.logits, classifier.head[-1](maps[-1].mean((2, 3))), rtol=1e-3, atol=1e-3
    )
    for early, layer in zip(reading.maps, (0, 6), strict=True):
        torch.testing.assert_close(early, maps[layer], rtol=1e-3, atol=1e-3)
    leaf = crops.clone().requires_grad_()
    teacher.early(leaf, 2)[-1].sum().backward()
    assert leaf.grad.abs().sum() > 0 and all(p.grad is None for p in teacher.parameters())
