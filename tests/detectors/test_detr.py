"""The step of transformers' RT-DETR, RT-DETRv2 and D-FINE, on tiny models with random weights."""

import pytest
import torch

import c2dlib
from c2dlib.detectors.detr import DETRStep
from c2dlib.teacher.classifier import build_classifier
from c2dlib.training.step import TrainingStep

transformers = pytest.importorskip("transformers")
CLASSES, SIZE = 5, (64, 96)  # height and width


def tiny(name: str):
    """A detector of two decoder layers and 20 queries."""
    torch.manual_seed(0)
    common = {
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 32,
        "decoder_attention_heads": 2,
        "decoder_layers": 2,
        "hidden_expansion": 0.5,
        "num_queries": 20,
        "num_denoising": 10,
        "num_labels": CLASSES,
    }
    if name == "DFine":
        backbone = transformers.HGNetV2Config(
            stem_channels=[3, 8, 8],
            stage_in_channels=[8, 16, 24, 32],
            stage_mid_channels=[4, 4, 8, 8],
            stage_out_channels=[16, 24, 32, 40],
            stage_num_blocks=[1, 1, 1, 1],
            stage_downsample=[False, True, True, True],
            stage_light_block=[False, False, True, True],
            stage_kernel_size=[3, 3, 3, 3],
            stage_numb_of_layers=[1, 1, 1, 1],
            hidden_sizes=[16, 24, 32, 40],
            depths=[1, 1, 1, 1],
            embedding_size=8,
            out_features=["stage2", "stage3", "stage4"],
        )
        channels = [24, 32, 40]
    else:
        backbone = transformers.RTDetrResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )
        channels = [16, 24, 32]
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone, encoder_in_channels=channels, **common
    )
    model = getattr(transformers, f"{name}ForObjectDetection")(config).train()
    with torch.no_grad():  # box heads end in zeros: at first no gradient of the boxes passes them
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model


def scene() -> tuple[list, list]:
    """Three images; the second, half as large as the network's input, has no box."""
    torch.manual_seed(1)
    boxes = [[[5.0, 8, 30, 40], [28, 4, 60, 35], [40, 40, 90, 62]], [], [[10.0, 20, 52, 50]]]
    labels = [[1, 5, 3], [], [2]]
    images = [torch.rand(3, 64, 96), torch.rand(3, 32, 48), torch.rand(3, 64, 96)]
    return images, [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(x, dtype=torch.int64)}
        for b, x in zip(boxes, labels, strict=True)
    ]


def their_inputs(images: list, targets: list) -> dict:
    """The same scene as transformers' models take it; by hand."""
    resized = [torch.nn.functional.interpolate(i[None], SIZE, mode="bilinear") for i in images]
    labels = []
    for image, target in zip(images, targets, strict=True):
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        width, height = image.shape[2], image.shape[1]
        boxes = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
        labels.append({"class_labels": target["labels"] - 1, "boxes": torch.stack(boxes, 1)})
    return {"pixel_values": torch.cat(resized), "labels": labels}


@pytest.mark.parametrize("name", ["RTDetr", "RTDetrV2", "DFine"])
class TestStep:
    def test_task_losses_are_the_models_own(self, name):
        model, (images, targets) = tiny(name), scene()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        torch.manual_seed(7)
        with torch.no_grad():
            expected = model(**their_inputs(images, targets))
        model.load_state_dict(state)  # batch statistics moved
        torch.manual_seed(7)
        losses = DETRStep(model, SIZE)(images, targets).task_losses
        assert losses.keys() == expected.loss_dict.keys() and len(losses) > 10  # with denoising
        for key, value in expected.loss_dict.items():
            torch.testing.assert_close(losses[key].detach(), value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(sum(losses.values()).detach(), expected.loss, rtol=1e-5, atol=1e-6)

    def test_positives_are_the_models_own_matches_of_the_last_layer(self, name, monkeypatch):
        from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

        calls, forward = [], RTDetrHungarianMatcher.forward

        def noted(self, outputs, targets):
            calls.append(forward(self, outputs, targets))
            return calls[-1]

        monkeypatch.setattr(RTDetrHungarianMatcher, "forward", noted)
        (images, targets), step = scene(), DETRStep(tiny(name), SIZE)
        seen = {}
        step.model.register_forward_hook(lambda _, args, result: seen.update(result))
        out = step(images, targets)
        matched, of_loss = out.positives, calls[0]  # the loss matches its last layer first
        assert matched.image_index.tolist() == [0, 0, 0, 2] and matched.background_logits is None
        queries = torch.cat([query for query, _ in of_loss])
        assert torch.equal(matched.gt_index, torch.cat([gt for _, gt in of_loss]))
        denoising = seen["logits"].shape[1] - 20
        assert denoising > 0
        for row, (image, query) in enumerate(zip(matched.image_index, queries, strict=True)):
            assert torch.equal(matched.class_logits[row], seen["logits"][image, denoising + query])
            x, y, w, h = seen["pred_boxes"][image, denoising + query].tolist()
            corners = [(x - w / 2) * 96, (y - h / 2) * 64, (x + w / 2) * 96, (y + h / 2) * 64]
            torch.testing.assert_close(matched.pred_boxes[row].detach(), torch.tensor(corners))
            assert matched.labels[row] == targets[image]["labels"][matched.gt_index[row]] - 1
        assert out.images.shape == (3, 3, *SIZE) and out.targets[1]["boxes"].shape == (0, 4)
        torch.testing.assert_close(out.pixels()[0], images[0] * 255)
        assert [m.shape[-2:] for m in out.features.values()] == [(8, 12), (4, 6), (2, 3)]

    def test_boxes_under_autocast_are_scaled_to_pixels_in_fp32(self, name):
        model, seen = tiny(name), {}
        model.config.num_denoising = 0  # else its true boxes, in fp32, raise all boxes to fp32
        model.register_forward_hook(lambda _, args, result: seen.update(result))
        with torch.autocast("cpu", torch.bfloat16):
            matched = DETRStep(model, SIZE)(*scene()).positives
        assert matched.class_logits.dtype == matched.pred_boxes.dtype == torch.float32
        x, y, w, h = seen["pred_boxes"].float().unbind(2)
        corners = torch.stack([(x - w / 2) * 96, (y - h / 2) * 64, (x + w / 2) * 96, (y + h / 2) * 64], 2)
        for image, box in zip(matched.image_index, matched.pred_boxes, strict=True):
            assert (corners[image] - box).abs().max(1).values.min() < 1e-4

    def test_c2d_reaches_the_student_alone(self, name):
        model, (images, targets) = tiny(name), scene()
        teacher = c2dlib.Teacher(build_classifier("resnet18", CLASSES, 32, width=0.25), CLASSES, 32)
        step = TrainingStep(DETRStep(model, SIZE), c2dlib.C2D(teacher, sampling_size=16))
        terms = step(images, targets)
        assert list(terms)[-3:] == ["KDcls", "loc", "KDloc"]
        for key in ("KDcls", "loc", "KDloc"):
            step.zero_grad()
            assert terms[key].isfinite() and terms[key] > 0
            terms[key].backward(retain_graph=True)
            first = next(p for p in model.model.backbone.parameters() if p.ndim == 4 and p.requires_grad)
            assert first.grad.abs().sum() > 0
        assert all(p.grad is None for p in teacher.parameters())
        assert {id(p) for p in step.parameters()} == {id(p) for p in model.parameters()}

    def test_no_boxes_no_positives(self, name):
        images, targets = scene()
        out = DETRStep(tiny(name), SIZE)(images[1:2] * 2, targets[1:2] * 2)
        assert out.positives.pred_boxes.shape == (0, 4) and out.positives.class_logits.shape == (0, CLASSES)
        loss = sum(out.task_losses.values()) + out.positives.pred_boxes.sum()
        loss.backward()
        assert loss.isfinite()


def test_training_step_knows_it_and_its_losses_divisors():
    model = tiny("RTDetr")
    step = c2dlib.training_step(model)
    assert isinstance(step.student, DETRStep) and step.student.image_size == (640, 640)
    divisors = DETRStep(model, SIZE)(*scene()).divisors
    assert divisors["loss_vfl"] == divisors["loss_giou_aux_0"] == 4
    assert divisors["loss_bbox_dn_1"] == 4 * (10 // 3)  # groups of denoising queries: num_denoising // N


def test_another_detector_of_transformers_is_refused():
    class DetrForObjectDetection(torch.nn.Module):  # its classes are a softmax
        pass

    with pytest.raises(TypeError, match="RTDetrForObjectDetection, RTDetrV2ForObjectDetection"):
        c2dlib.training_step(DetrForObjectDetection())
