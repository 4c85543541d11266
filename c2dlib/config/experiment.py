"""Experiment: every setting of one run, in one frozen dataclass; scales are YAML files of differences."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from c2dlib.config import weights
from c2dlib.config.methods import (
    UNDEFINED_FOR,
    canonical,
    imitation_in,
    localisation_term,
    needs_classifier,
    parts,
)
from c2dlib.config.students import ARCHITECTURES

RECIPE = 1  # raised when the code changes what a run of the same settings computes: old records no longer count
PRETRAINING = ("badges", "crops")  # initial weights that are trained here
SCALES = Path(__file__).parent / "scales"


def setting(sentence: str, default=None, *, used_by: str = "student", added: bool = False):
    """A field of Experiment: its sentence, and which part of a run depends on it.

    ``added``: newer than the first committed records; at its default it is left out of the identity, and they count.
    """
    return field(default=default, metadata={"doc": sentence, "used_by": used_by, "added": added})


@dataclass(frozen=True)
class Experiment:
    """One training run. The defaults are the paper's; ``scales/*.yaml`` say what a scale changes."""

    student: str = setting("The detector to train, by the paper's name.", "SSD300-VGG16")
    method: str = setting("What it trains with, by the paper's name.", "baseline")
    seed: int = setting("Of initial weights, order of images and augmentation.", 0)
    data: str = setting("Name of the data set.", "badges")
    data_hash: str = setting("Hash of its annotation files.", "")
    eval_split: str = setting("Split the metrics are of: test where there is one, else val.", "val")

    train_share: float = setting("Share of the training images that is trained on, the first ones; the teacher too.", 1.0,
                                 added=True)

    image_size: int = setting("Network input: side of SSD's square, short side of the others, in pixels.", 300)
    max_size: int = setting("Longest side of Faster R-CNN's and RetinaNet's input, in pixels.", 1333)
    width: float = setting("Factor on the published channel counts of the backbone.", 1.0)
    depth: float = setting("Factor on the published residual blocks per stage (not for VGG).", 1.0)
    fpn_channels: int = setting("Channels of the feature pyramid.", 256)
    first_level: int = setting("Finest level of Faster R-CNN's pyramid: 2 (stride 4, as in the paper) or 3 (stride 8).", 2, added=True)
    box_head_dim: int = setting("Width of Faster R-CNN's box head.", 1024)
    rois_per_image: int = setting("Proposals Faster R-CNN trains on, per image.", 512)
    rpn_top_n: int = setting("Proposals per level that Faster R-CNN's RPN passes to non-maximum suppression.", 2000)
    norm: str = setting("frozen: BatchNorm keeps the initial weights' statistics; batch: it learns.", "frozen")
    frozen_stages: int = setting("First backbone stages that keep their initial weights (FPN detectors).", 2)
    anchor_scale: float = setting("Factor on the paper's anchor sizes.", 1.0)
    score_threshold: float = setting("Detections below this score are dropped.", 0.05)
    backbone_weights: str = setting("imagenet, none, badges (pre-training on other badges), crops (pre-training on the "
                                    "training split's boxes) or a file, NAME.safetensors or NAME.safetensors@HASH.", "imagenet")

    steps: int = setting("Optimizer steps; 0: count epochs instead.", 0)
    epochs: float = setting("Passes over the training split, where steps is 0.", 12)
    batch_size: int = setting("Images per step, of all processes together. With SGD lr follows it, where only this is changed.", 16)
    optimizer: str = setting("sgd or adamw.", "sgd")
    lr: float = setting("Learning rate.", 0.02)
    momentum: float = setting("Of SGD.", 0.9)
    weight_decay: float = setting("L2 penalty (SGD) or decoupled decay (AdamW).", 1e-4)
    schedule: str = setting("step: x 0.1 at the milestones; cosine: to zero.", "step")
    milestones: tuple = setting("Shares of the schedule at which the learning rate drops.", (8 / 12, 11 / 12))
    warmup: int = setting("Steps of linear warm-up.", 500)
    clip: float = setting("Largest gradient norm; 0: not clipped.", 0.0)
    precision: str = setting("no, bf16 or fp16 (autocast).", "no")

    flip: bool = setting("Horizontal flips, half of the images.", True)
    vertical_flip: bool = setting("Vertical flips, half of the images.", False)
    photometric: bool = setting("SSD's photometric distortion.", True)
    zoom_out: float = setting("SSD's expand: largest factor; 1: off.", 4.0)
    iou_crop: bool = setting("SSD's minimum-IoU random crop.", True)
    validate_every: int = setting("Steps between evaluations on val while it trains, for a curve; 0: none.", 0, used_by="machine")
    workers: int = setting("Loader processes; 0: load in the training process.", 0, used_by="machine")
    compile: bool = setting("torch.compile for the backbone.", False, used_by="machine")
    accumulate: int = setting("Parts a batch is computed in, one after the other, for less memory; each is averaged on its own.", 1,
                              added=True)
    group_by_aspect: bool = setting("Batches of only wide or only high images, so that little is padding.", False, added=True)

    lambda_kc: float = setting("Weight of KD_cls (eq. 12).", 0.4, used_by="cls")
    temperature: float = setting("T of KD_cls.", 2.0, used_by="cls")
    lambda_l: float = setting("Weight of loc, images in 0..255.", 0.15, used_by="loc")
    lambda_kl: float = setting("Weight of KD_loc.", 0.15, used_by="KDloc")
    sampling_size: int = setting("Side of the crops that loc and KD_loc compare.", 112, used_by="loc")
    pool_obj: int = setting("Cells per side loc compares.", 4, used_by="loc")
    pool_maps: int = setting("Cells per side KD_loc compares.", 8, used_by="KDloc")
    max_positives: int = setting("Positives per step that loc and KD_loc see, drawn at random; 0: all.", 0,
                                 used_by="loc")
    loc_min_iou: float = setting("Only positives whose predicted box overlaps its object by this IoU enter loc and KD_loc. Anchors do by "
                                 "their matching; FCOS, whose boxes begin without a size, needs it.", 0.0, used_by="loc", added=True)
    kd_loc_layers: int = setting("The teacher's early maps KD_loc compares (1: l0, 2: l0 and l1).", 1,
                                 used_by="KDloc")

    teacher: str = setting("The classifier: any timm model.", "resnet50", used_by="teacher")
    teacher_width: float = setting("Factor on a timm ResNet's channels.", 1.0, used_by="teacher")
    teacher_pretrained: bool = setting("Start the classifier from timm's weights.", True, used_by="teacher")
    teacher_weights: str = setting("Start the classifier from this .safetensors file, of all layers but the last.", "",
                                   used_by="teacher", added=True)
    teacher_size: int = setting("Side of the crops the classifier reads.", 112, used_by="teacher")
    teacher_steps: int = setting("Its optimizer steps.", 90000, used_by="teacher")
    teacher_images: int = setting("Images whose crops make one of its steps.", 32, used_by="teacher")
    teacher_lr: float = setting("Its peak learning rate (AdamW, cosine).", 3e-4, used_by="teacher")
    teacher_jitter: float = setting("Random shift of each side of its training crops, share of the box.", 0.05,
                                    used_by="teacher")

    teacher_image_size: int = setting("Short side images are scaled to before its training crops are cut, as a student's "
                                      "input is; 0: as they are.", 0, used_by="teacher", added=True)

    lambda_kd: float = setting("Factor on the weights of KD (Chen et al.).", 1.0, used_by="KD", added=True)
    lambda_fgfi: float = setting("Factor on FGFI's weight.", 1.0, used_by="FGFI", added=True)
    lambda_gid: float = setting("Factor on GID's four weights.", 1.0, used_by="GID", added=True)
    lambda_fkd: float = setting("Factor on FKD's four published weights.", 1.0, used_by="FKD", added=True)
    lambda_defeat: float = setting("Factor on DeFeat's two weights.", 1.0, used_by="DeFeat", added=True)
    lambda_fitnets: float = setting("Factor on the weight of the FitNets hint.", 1.0, used_by="FitNets", added=True)
    lambda_at: float = setting("Factor on attention transfer's weight.", 1.0, used_by="AT", added=True)
    lambda_pkd: float = setting("Factor on PKD's weight.", 1.0, used_by="PKD", added=True)
    lambda_cwd: float = setting("Factor on CWD's weight.", 1.0, used_by="CWD", added=True)
    detector_teacher_steps: int = setting("Steps of the detector that these imitate; 0: count epochs.", 0, used_by="detector")
    detector_teacher_epochs: float = setting("Its passes over the training split.", 24, used_by="detector")
    detector_teacher_lr: float = setting("Its learning rate; 0: the student's.", 0.0, used_by="detector", added=True)
    detector_teacher_frozen: int = setting("Its first backbone stages that keep their initial weights; -1: as many as the student's.",
                                           -1, used_by="detector", added=True)
    detector_teacher_weights: str = setting("Its backbone's initial weights; empty: imagenet where the student's are a file, else as "
                                            "the student's.", "", used_by="detector", added=True)
    detector_teacher_width: float = setting("Its width.", 1.0, used_by="detector")
    detector_teacher_fpn: int = setting("Channels of its feature pyramid.", 256, used_by="detector")

    pretrain_scenes: int = setting("Scenes of other badges the backbone is pre-trained on.", 2000,
                                   used_by="pretrain")
    pretrain_steps: int = setting("Steps of that pre-training.", 600, used_by="pretrain")
    pretrain_batch: int = setting("Its crops per step.", 96, used_by="pretrain")
    pretrain_size: int = setting("Side of its crops.", 64, used_by="pretrain")
    pretrain_lr: float = setting("Its peak learning rate (AdamW, cosine).", 2e-3, used_by="pretrain")

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            wanted = type(f.default)
            if wanted is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif wanted is tuple and isinstance(value, list):
                object.__setattr__(self, f.name, tuple(value))
            elif type(value) is not wanted:
                raise ValueError(f"{f.name}={value!r} must be {wanted.__name__}: {f.metadata['doc']}")
        known(self.student, ARCHITECTURES, "student")
        object.__setattr__(self, "method", canonical(self.method))
        family, imitates = ARCHITECTURES[self.student].family, imitation_in(self.method)
        if imitates in UNDEFINED_FOR.get(family, []):
            raise ValueError(f"{imitates} is not defined for {self.student}: it needs a feature pyramid with anchors")
        if imitates and not ARCHITECTURES[self.student].teacher:
            raise ValueError(f"{self.student} is a teacher itself: there is no detector for it to imitate")
        for name, choices in {"norm": ["frozen", "batch"], "optimizer": ["sgd", "adamw"],
                              "schedule": ["step", "cosine"], "precision": ["no", "bf16", "fp16"],
                              "eval_split": ["val", "test"]}.items():
            known(getattr(self, name), choices, name)
        for name in ("image_size", "max_size", "batch_size", "accumulate", "width", "lr", "temperature", "sampling_size",
                     "pool_obj", "pool_maps", "kd_loc_layers", "teacher_size", "teacher_steps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share={self.train_share} must be above 0 and at most 1")
        for name in ("steps", "epochs", "warmup", "clip", "workers", "detector_teacher_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")

    def identity(self) -> dict:
        """The settings this run's numbers depend on: those of parts its method does not use are left out."""
        used, mine = {"student"}, parts(self.method)
        used |= {"cls"} if any(p.startswith("KDcls") for p in mine) else set()
        used |= {"loc"} if any(map(localisation_term, mine)) else set()
        used |= {"KDloc"} if "KDloc" in map(localisation_term, mine) else set()
        used |= {"teacher"} if needs_classifier(self.method) else set()
        used |= {"detector", imitation_in(self.method)} if imitation_in(self.method) else set()
        used |= {"pretrain"} if self.backbone_weights in PRETRAINING else set()
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)
                    if f.metadata["used_by"] in used and not (f.metadata["added"] and getattr(self, f.name) == f.default)}
        return {"recipe": RECIPE} | {k: weights.identity(v) if k.endswith("_weights") else v for k, v in settings.items()}

    def hash(self) -> str:
        return digest(self.identity())

    @property
    def name(self) -> str:
        return f"{self.student}.{self.method}.s{self.seed}"

    def replace(self, **changes) -> Experiment:
        """A copy with some settings changed.

        Raises:
            ValueError: for a setting that does not exist, naming the nearest.
        """
        names = [f.name for f in dataclasses.fields(self)]
        for key in changes:
            known(key, names, "setting")
        return dataclasses.replace(self, **changes)


def known(value: str, valid, what: str) -> str:
    """``value`` if it is one of ``valid``; else a ValueError that names the valid ones, nearest first."""
    valid = list(valid)
    if value in valid:
        return value
    near = difflib.get_close_matches(str(value), valid, 3, 0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"unknown {what} {value!r}.{hint} Valid: {', '.join(valid)}")


def digest(value) -> str:
    """A content hash of anything JSON can say: twelve hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def scale_settings(scale: str, student: str, data: str = "badges") -> dict:
    """What a scale's YAML says of a student: ``common``, then its ``families`` entry, then its own.

    For other data than the embedded Badges the same three of ``own_data`` come after them, where the YAML has it.
    """
    known(scale, sorted(p.stem for p in SCALES.glob("*.yaml")), "SCALE")
    known(student, ARCHITECTURES, "student")
    text, settings = _scale(scale), {}
    for layer in (text, {} if data == "badges" else text.get("own_data", {})):
        settings |= layer.get("common", {})
        settings |= layer.get("families", {}).get(ARCHITECTURES[student].family, {})
        settings |= layer.get("students", {}).get(student, {})
    return settings


def scale_data(scale: str) -> dict:
    """How many Badges scenes a scale has per split."""
    known(scale, sorted(p.stem for p in SCALES.glob("*.yaml")), "SCALE")
    return _scale(scale)["badges"]


@cache
def _scale(name: str) -> dict:
    return yaml.safe_load((SCALES / f"{name}.yaml").read_text())


def experiment(scale: str, student: str, method: str = "baseline", seed: int = 0, **overrides) -> Experiment:
    """The Experiment of one cell of a table.

    Raises:
        ValueError: for an unknown scale, student, method or setting, naming the valid ones.
    """
    settings = {**scale_settings(scale, student, overrides.get("data", "badges")), "student": student, "method": method, "seed": seed}
    usual, asked = Experiment().replace(**settings), Experiment().replace(**{**settings, **overrides})
    if asked.optimizer == "sgd" and asked.batch_size != usual.batch_size and "lr" not in overrides:  # the linear rule of Goyal et al. 2017
        asked = asked.replace(lr=usual.lr * asked.batch_size / usual.batch_size)
    return asked


def parse_override(text: str) -> tuple[str, object]:
    """``steps=20`` -> ``("steps", 20)``: the value as YAML reads it."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"override {text!r} must look like setting=value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"override {text!r} must look like setting=value ({error})") from error
    if isinstance(getattr(Experiment, key, None), str):  # the field is text: YAML 1.1 takes `no` for False
        return key, value
    try:  # YAML 1.1 takes 1e-4 for a string
        parsed = float(parsed) if isinstance(parsed, str) else parsed
    except ValueError:
        pass
    return key, parsed
