"""From an Experiment, or from a detector that exists, to a training step."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

from c2dlib.config import students
from c2dlib.config.experiment import Experiment
from c2dlib.detectors.backbones import build_body, load_initial_weights, with_pyramid
from c2dlib.detectors.detr import DETR_MODELS, DETRStep, is_detr
from c2dlib.detectors.faster_rcnn import FasterRCNNStep, build_faster_rcnn
from c2dlib.detectors.fcos import FCOSStep, build_fcos
from c2dlib.detectors.retinanet import RetinaNetStep, build_retinanet
from c2dlib.detectors.ssd import SSD300, SSD512, SSDStep, build_mobilenet_ssd, build_ssd

SSD_LAYOUTS = {300: SSD300, 512: SSD512}
Step = SSDStep | FasterRCNNStep | RetinaNetStep | FCOSStep | DETRStep
# torchvision's detectors; its Mask R-CNN and Keypoint R-CNN are FasterRCNNs, its SSDLite is an SSD
STEPS = {SSD: SSDStep, FasterRCNN: FasterRCNNStep, RetinaNet: RetinaNetStep, FCOS: FCOSStep}


def build_student(e: Experiment, num_classes: int, initial: str | dict[str, Tensor]) -> Step:
    """The detector that an experiment names, with its initial backbone weights, wrapped for training.

    ``.model`` of what is returned is a plain torchvision detector: images [3, H, W] in 0..1 in, boxes out.

    Args:
        num_classes: C object classes, background not counted.
        initial: the backbone's weights, see ``load_initial_weights``.

    Raises:
        WeightsError: if the weights do not exist or do not fit the backbone.
    """
    return BUILDERS[e.architecture.family](e, num_classes, initial)


def _body(e: Experiment, initial: str | dict[str, Tensor]) -> nn.Module:
    """The backbone with its initial weights."""
    body = build_body(e.architecture.body, e.width, e.depth, e.norm)
    load_initial_weights(body, e.architecture.body, initial)
    return body


def _pyramid(e: Experiment, initial: str | dict[str, Tensor]) -> nn.Module:
    """The backbone and its feature pyramid, which begins at stride 8 for one-stage detectors."""
    one_stage = e.architecture.family.one_stage
    return with_pyramid(
        _body(e, initial),
        e.architecture.body,
        e.fpn_channels,
        e.frozen_stages,
        3 if one_stage else e.first_level,
        one_stage,
    )


def _ssd(e: Experiment, num_classes: int, initial: str | dict[str, Tensor]) -> SSDStep:
    if e.architecture.ssd_layout:
        return _vgg_ssd(e, num_classes, initial)
    return SSDStep(
        build_mobilenet_ssd(
            _body(e, initial), num_classes, e.image_size, e.width / 4, e.anchor_scale, e.score_threshold
        )
    )


def _vgg_ssd(e: Experiment, num_classes: int, initial: str | dict[str, Tensor]) -> SSDStep:
    vgg_depth = int(e.architecture.body.removeprefix("vgg"))
    model = build_ssd(
        num_classes,
        e.image_size,
        SSD_LAYOUTS[e.architecture.ssd_layout],
        vgg_depth,
        e.width,
        e.norm == "batch",
        e.anchor_scale,
        e.score_threshold,
    )
    convolutions = list(model.backbone.features) + list(model.backbone.extra[0][:-1])
    for ssd_layer, vgg_layer in zip(
        convolutions, _body(e, initial), strict=False
    ):  # VGG ends with a pool that SSD lacks
        ssd_layer.load_state_dict(vgg_layer.state_dict())
    return SSDStep(model)


def _faster_rcnn(e: Experiment, num_classes: int, initial: str | dict[str, Tensor]) -> FasterRCNNStep:
    return FasterRCNNStep(
        build_faster_rcnn(
            _pyramid(e, initial),
            num_classes,
            e.image_size,
            e.max_size,
            e.box_head_dim,
            e.anchor_scale,
            e.score_threshold,
            e.rois_per_image,
            e.rpn_top_n,
            e.architecture.family.masks,
            e.first_level,
        ),
        weighted_sum=e.roi_align == "weighted_sum",
    )


def _retinanet(e: Experiment, num_classes: int, initial: str | dict[str, Tensor]) -> RetinaNetStep:
    return RetinaNetStep(
        build_retinanet(
            _pyramid(e, initial), num_classes, e.image_size, e.max_size, e.anchor_scale, e.score_threshold
        )
    )


def _fcos(e: Experiment, num_classes: int, initial: str | dict[str, Tensor]) -> FCOSStep:
    return FCOSStep(
        build_fcos(
            _pyramid(e, initial), num_classes, e.image_size, e.max_size, e.anchor_scale, e.score_threshold
        )
    )


BUILDERS = {
    students.SSD: _ssd,
    students.FASTER_RCNN: _faster_rcnn,
    students.MASK_RCNN: _faster_rcnn,
    students.RETINANET: _retinanet,
    students.FCOS: _fcos,
}


def step_for(detector: nn.Module) -> Step:
    """The training step for a detector, by its type.

    Args:
        detector: any of torchvision's (SSD, SSDLite, Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS), or
            RT-DETR, RT-DETRv2 or D-FINE of transformers. It is not copied or changed.

    Raises:
        TypeError: for another model; it says how to write a step for it.
    """
    for kind, step in STEPS.items():
        if isinstance(detector, kind):
            return step(detector)
    if is_detr(detector):
        return DETRStep(detector)
    raise TypeError(
        f"no training step for {type(detector).__name__}. There are steps for torchvision's "
        f"{', '.join(kind.__name__ for kind in STEPS)} and their subclasses, and for transformers' "
        f"{', '.join(DETR_MODELS)}. A model wrapped by DistributedDataParallel or torch.compile is unknown "
        "too: wrap the training step instead. For a detector of your own write an nn.Module whose attribute "
        "`model` is the detector and whose forward(images, targets) returns a c2dlib.TrainOutput with its "
        "c2dlib.MatchedPositives (c2dlib/detectors/ssd.py is an example), and pass it to "
        "c2dlib.training.step.TrainingStep(your_step, distillers)."
    )


def parameter_count(model: nn.Module) -> int:
    """How many numbers a detector learns or keeps as weights (frozen ones counted, statistics not)."""
    return sum(p.numel() for p in model.parameters())
