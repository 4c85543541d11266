"""Experiment: every setting of one run, in one frozen dataclass; scales are YAML files of differences."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from c2dlib.config.identity import USERS, digest, run_identity
from c2dlib.config.methods import IMITATION_WEIGHTS, canonical, imitation_in
from c2dlib.config.students import ARCHITECTURES, FAMILIES, Architecture
from c2dlib.config.weights import SOURCES, check_reference, with_hash
from c2dlib.files import parse_yaml, read_yaml
from c2dlib.records import EMBEDDED

SCALES = Path(__file__).parent / "scales"
PRESETS = Path(__file__).parent / "presets"  # as scales, for `train` on data of one's own; no table has them
SCALE_ENTRIES = ("like", "student", "badges", "common", "families", "students", "own_data", "tables")


def setting(sentence: str, default=None, *, used_by: str | tuple[str, ...] = "student", since: int = 1):
    """A field of Experiment.

    Args:
        sentence: what the setting is, with its unit.
        used_by: who reads the setting, one or several of ``identity.USERS``. This alone decides which hashes
            the setting enters.
        since: the schema of the run records that first has the setting. From 2 on a setting at its default is
            left out of the identity, so that records of an earlier schema stay valid.

    Raises:
        ValueError: if ``used_by`` names no user.
    """
    users = (used_by,) if isinstance(used_by, str) else used_by
    for user in users:
        known(user, USERS, "user of a setting")
    return field(default=default, metadata={"doc": sentence, "used_by": users, "since": since})


def known(value: str, valid, what: str) -> str:
    """``value`` if it is one of ``valid``; else a ValueError that names the valid ones, nearest first."""
    valid = list(valid)
    if value in valid:
        return value
    near = difflib.get_close_matches(str(value), valid, 3, 0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"unknown {what} {value!r}.{hint} Valid: {', '.join(valid)}")


def check_jobs(jobs: int) -> None:
    """Check how many runs are to go on at once; 0 is one per core or GPU."""
    if jobs < 0:
        raise ValueError(f"JOBS={jobs} must be at least 1, or 0 for one per core or GPU")


NOT_NEGATIVE = (
    "steps",
    "epochs",
    "warmup",
    "clip",
    "weight_decay",
    "workers",
    "validate_every",
    "keep_best_every",
    "patience",
    "box_loss_weight",
    "class_loss_weight",
    "max_positives",
    "remembered_crops",
    "remembered_images",
    "lambda_kc",
    "lambda_l",
    "lambda_kl",
    *IMITATION_WEIGHTS.values(),
    "teacher_image_size",
    "detector_teacher_steps",
    "detector_teacher_epochs",
    "detector_teacher_lr",
)
POSITIVE = (
    "image_size",
    "max_size",
    "batch_size",
    "accumulate",
    "width",
    "depth",
    "fpn_channels",
    "box_head_dim",
    "rois_per_image",
    "rpn_top_n",
    "anchor_scale",
    "lr",
    "sampling_size",
    "pool_obj",
    "pool_maps",
    "teacher_width",
    "teacher_size",
    "teacher_steps",
    "teacher_images",
    "teacher_lr",
    "detector_teacher_width",
    "detector_teacher_fpn",
    "pretrain_scenes",
    "pretrain_steps",
    "pretrain_batch",
    "pretrain_size",
    "pretrain_lr",
)
LIMITS = {  # setting -> its smallest and largest value
    "image_size": (32, 4096),  # 32 is the coarsest stride of a backbone
    "max_size": (32, 4096),
    "first_level": (2, 3),
    "frozen_stages": (0, 5),  # a backbone has five
    "detector_teacher_frozen": (-1, 5),
    "score_threshold": (0, 1),
    "momentum": (0, 1),
    "zoom_out": (1, 16),
    "temperature": (0.01, 1000),
    "loc_min_iou": (0, 1),
    "kd_loc_layers": (1, 5),  # a classifier's maps, a stride each
    "teacher_jitter": (0, 0.5),  # with more, opposite sides could change places
}
# What --set and SET cannot change: the command has an option for it, or it follows from the data.
FIXED = ("student", "method", "seed", "scale", "data", "data_hash")
# who reads a setting beside the student
CLASSIFIER_TOO, BACKBONE_TOO = ("student", "teacher"), ("student", "pretraining")


@dataclass(frozen=True)
class Experiment:
    """One training run. The defaults are the paper's; ``scales/*.yaml`` say what a scale changes."""

    student: str = setting("The detector to train, by the paper's name.", "SSD300-VGG16")
    method: str = setting("The losses it is trained with, by the paper's name.", "baseline")
    seed: int = setting(
        "Random seed of the initial weights, the order of the images and the augmentation.", 0
    )
    data: str = setting("Name of the data set.", "badges")
    data_hash: str = setting("Hash of the annotation files.", "")
    eval_split: str = setting(
        "Split the metrics are computed on: test where there is one, else val.", "val", used_by=CLASSIFIER_TOO
    )

    train_share: float = setting(
        "Share of the training images that student and teachers are trained on: the first ones, see draw.",
        1.0,
        used_by=("student", "teacher", "crops"),
        since=2,
    )
    draw: int = setting(
        "Which draw of training set, initial weights and teacher: the training images are the part of this "
        "number (from 0) among parts of train_share; pre-training and teacher have it as their seed.",
        0,
        used_by=("student", "teacher", "pretraining"),
        since=2,
    )

    image_size: int = setting(
        "Network input in pixels: the side of SSD's square, the short side for the other detectors.", 300
    )
    max_size: int = setting("Largest long side of the network input, in pixels (not for SSD).", 1333)
    width: float = setting(
        "Factor on the published channel counts of the backbone.", 1.0, used_by=BACKBONE_TOO
    )
    depth: float = setting(
        "Factor on the published residual blocks per stage (not for VGG).", 1.0, used_by=BACKBONE_TOO
    )
    fpn_channels: int = setting("Channels of the feature pyramid.", 256)
    first_level: int = setting(
        "Finest level of Faster R-CNN's pyramid: 2 (stride 4, as in the paper) or 3 (stride 8).", 2, since=2
    )
    box_head_dim: int = setting("Width of Faster R-CNN's box head.", 1024)
    rois_per_image: int = setting("Proposals per image that Faster R-CNN trains on.", 512)
    rpn_top_n: int = setting(
        "Proposals per level that Faster R-CNN's RPN passes to non-maximum suppression.", 2000
    )
    norm: str = setting(
        "BatchNorm: frozen keeps the statistics of the initial weights, batch learns them.",
        "frozen",
        used_by=BACKBONE_TOO,
    )
    frozen_stages: int = setting(
        "Number of first backbone stages that keep their initial weights (detectors with a pyramid).", 2
    )
    anchor_scale: float = setting("Factor on the paper's anchor sizes.", 1.0)
    score_threshold: float = setting("Detections with a lower score are dropped.", 0.05)
    backbone_weights: str = setting(
        "Initial weights of the backbone: imagenet, none, badges (pre-trained on other badges), crops "
        "(pre-trained on the training split's boxes) or a file, NAME.safetensors or NAME.safetensors@HASH.",
        "imagenet",
    )

    steps: int = setting("Optimizer steps; 0: epochs are counted instead.", 0)
    epochs: float = setting("Passes over the training split, where steps is 0.", 12)
    batch_size: int = setting(
        "Images per step, over all processes. With SGD, lr follows a changed batch_size in proportion.", 16
    )
    optimizer: str = setting("Optimizer: sgd or adamw.", "sgd")
    lr: float = setting("Learning rate.", 0.02)
    momentum: float = setting("SGD momentum.", 0.9)
    weight_decay: float = setting("L2 penalty (SGD) or decoupled decay (AdamW).", 1e-4)
    schedule: str = setting(
        "Learning rate schedule: step (x 0.1 at the milestones) or cosine (to zero).", "step"
    )
    milestones: tuple = setting("Shares of the schedule at which the learning rate drops.", (8 / 12, 11 / 12))
    warmup: int = setting("Steps of linear warm-up.", 500)
    clip: float = setting("Largest gradient norm; 0: gradients are not clipped.", 0.0)
    precision: str = setting("Autocast precision: no, bf16 or fp16.", "no")

    flip: bool = setting(
        "Half of the training images are flipped horizontally.", True, used_by=CLASSIFIER_TOO
    )
    vertical_flip: bool = setting(
        "Half of the training images are flipped vertically.",
        False,
        used_by=("student", "teacher", "pretraining"),
    )
    photometric: bool = setting("SSD's photometric distortion is applied.", True, used_by=CLASSIFIER_TOO)
    zoom_out: float = setting(
        "Largest factor of SSD's expand augmentation; 1: off.", 4.0, used_by=CLASSIFIER_TOO
    )
    iou_crop: bool = setting("SSD's minimum-IoU random crop is applied.", True, used_by=CLASSIFIER_TOO)
    validate_every: int = setting(
        "Steps between evaluations on val during training, for a curve; 0: none.", 0, used_by="machine"
    )
    keep_best_every: int = setting(
        "Steps between evaluations on val of which the weights of highest mAP are kept; 0: the last weights "
        "are kept.",
        0,
        since=2,
    )
    patience: int = setting(
        "Evaluations in a row without a higher mAP on val after which training stops; 0: it does not stop.",
        0,
        since=2,
    )
    workers: int = setting(
        "Data loader processes; 0: the training process loads the images.", 0, used_by="machine"
    )
    compile: bool = setting("The backbone is compiled by torch.compile.", False, used_by="machine")
    roi_align: str = setting(
        "How Faster R-CNN's RoIAlign is computed while it trains on a CPU: operator (torchvision's) or "
        "weighted_sum, which is faster and equal up to rounding.",
        "operator",
        used_by="machine",
    )
    accumulate: int = setting(
        "Parts that a batch is split into, one after the other, to save memory; each part's loss is averaged "
        "on its own.",
        1,
        since=2,
    )
    group_by_aspect: bool = setting(
        "Each batch has only wide or only tall images, which saves padding.", False, since=2
    )

    box_loss_weight: float = setting("Factor on the detector's own losses on boxes.", 1.0, since=2)
    class_loss_weight: float = setting("Factor on the detector's own losses on classes.", 1.0, since=2)

    lambda_kc: float = setting("Weight of KD_cls (eq. 12).", 0.4, used_by="KDcls")
    temperature: float = setting("Temperature T of KD_cls.", 2.0, used_by="KDcls")
    remembered_crops: int = setting(
        "Crops whose logits KD_cls keeps, so that the teacher does not read them again; 0: none. It saves "
        "time where crops come back: flips are the only augmentation, and all images have one size.",
        0,
        used_by="machine",
    )
    lambda_l: float = setting("Weight of loc, for images in 0..255.", 0.15, used_by="loc")
    lambda_kl: float = setting("Weight of KD_loc.", 0.15, used_by="KDloc")
    sampling_size: int = setting(
        "Side of the crops that loc and KD_loc compare, in pixels.", 112, used_by="loc"
    )
    pool_obj: int = setting("Cells per side that loc pools its crops to.", 4, used_by="loc")
    pool_maps: int = setting("Cells per side that KD_loc pools the teacher's maps to.", 8, used_by="KDloc")
    max_positives: int = setting(
        "Largest number of positives per step in loc and KD_loc, drawn at random; 0: all.", 0, used_by="loc"
    )
    loc_min_iou: float = setting(
        "Smallest IoU of predicted box and object for a positive to enter loc and KD_loc. Matched anchors "
        "overlap their objects; FCOS, whose boxes begin without a size, needs it.",
        0.0,
        used_by="loc",
        since=2,
    )
    kd_loc_layers: int = setting(
        "Number of the teacher's early maps that KD_loc compares (1: l0, 2: l0 and l1).", 1, used_by="KDloc"
    )

    teacher: str = setting("Classification teacher: the name of a timm model.", "resnet50", used_by="teacher")
    teacher_width: float = setting(
        "Factor on the channels of a timm ResNet as teacher.", 1.0, used_by="teacher"
    )
    teacher_pretrained: bool = setting(
        "The teacher starts from timm's published weights.", True, used_by="teacher"
    )
    teacher_weights: str = setting(
        "File NAME.safetensors that the teacher starts from, in all layers but the last; empty: none.",
        "",
        used_by="teacher",
        since=2,
    )
    teacher_size: int = setting("Side of the crops the teacher reads, in pixels.", 112, used_by="teacher")
    teacher_steps: int = setting("Optimizer steps of the teacher.", 90000, used_by="teacher")
    teacher_images: int = setting(
        "Images per step of the teacher; all their objects are its crops.", 32, used_by="teacher"
    )
    teacher_lr: float = setting("Peak learning rate of the teacher (AdamW, cosine).", 3e-4, used_by="teacher")
    teacher_jitter: float = setting(
        "Largest random shift of each side of the teacher's training crops, as a share of the box.",
        0.05,
        used_by="teacher",
    )

    teacher_dtype: str = setting(
        "Numbers the teacher computes with as it reads crops: float32, or bfloat16 (faster, three digits).",
        "float32",
        used_by=("KDcls", "KDloc"),
        since=2,
    )
    teacher_image_size: int = setting(
        "Short side that images are scaled to before the teacher's crops are cut, in pixels; 0: not scaled.",
        0,
        used_by="teacher",
        since=2,
    )

    lambda_kd: float = setting("Factor on the weights of KD (Chen et al.).", 1.0, used_by="KD", since=2)
    lambda_fgfi: float = setting("Factor on the weight of FGFI.", 1.0, used_by="FGFI", since=2)
    lambda_gid: float = setting("Factor on the four weights of GID.", 1.0, used_by="GID", since=2)
    lambda_fkd: float = setting("Factor on the four published weights of FKD.", 1.0, used_by="FKD", since=2)
    lambda_defeat: float = setting("Factor on the two weights of DeFeat.", 1.0, used_by="DeFeat", since=2)
    lambda_fitnets: float = setting(
        "Factor on the weight of the FitNets hint.", 1.0, used_by="FitNets", since=2
    )
    lambda_at: float = setting("Factor on the weight of attention transfer.", 1.0, used_by="AT", since=2)
    lambda_pkd: float = setting("Factor on the weight of PKD.", 1.0, used_by="PKD", since=2)
    lambda_cwd: float = setting("Factor on the weight of CWD.", 1.0, used_by="CWD", since=2)
    detector_teacher_steps: int = setting(
        "Optimizer steps of the imitated detector; 0: epochs are counted instead.",
        0,
        used_by="detector_teacher",
    )
    detector_teacher_epochs: float = setting(
        "Passes of the imitated detector over the training split.", 24, used_by="detector_teacher"
    )
    detector_teacher_lr: float = setting(
        "Learning rate of the imitated detector; 0: the student's.", 0.0, used_by="detector_teacher", since=2
    )
    detector_teacher_frozen: int = setting(
        "Number of first backbone stages of the imitated detector that keep their initial weights; "
        "-1: as many as the student's.",
        -1,
        used_by="detector_teacher",
        since=2,
    )
    detector_teacher_weights: str = setting(
        "Initial backbone weights of the imitated detector; empty: imagenet where the student's are "
        "a file, else as the student's.",
        "",
        used_by="detector_teacher",
        since=2,
    )
    detector_teacher_width: float = setting(
        "Factor on the backbone channels of the imitated detector.", 1.0, used_by="detector_teacher"
    )
    detector_teacher_fpn: int = setting(
        "Channels of the imitated detector's feature pyramid.", 256, used_by="detector_teacher"
    )
    remembered_images: int = setting(
        "Images whose maps of the imitated detector are kept, so that it does not read them again; 0: none. "
        "It saves time where images come back: flips are the only augmentation, all have one size, and as "
        "many are kept as the training split has, flips counted.",
        0,
        used_by="machine",
    )

    pretrain_scenes: int = setting(
        "Scenes of other badges that the backbone is pre-trained on.", 2000, used_by="pretraining"
    )
    pretrain_steps: int = setting("Optimizer steps of the pre-training.", 600, used_by="pretraining")
    pretrain_batch: int = setting(
        "Images per step of the pre-training; all their objects are its crops.", 96, used_by="pretraining"
    )
    pretrain_size: int = setting("Side of the pre-training's crops, in pixels.", 64, used_by="pretraining")
    pretrain_lr: float = setting(
        "Peak learning rate of the pre-training (AdamW, cosine).", 2e-3, used_by="pretraining"
    )

    def __post_init__(self):
        self._convert_types()
        known(self.student, ARCHITECTURES, "student")
        object.__setattr__(self, "method", canonical(self.method))
        self._check_imitation()
        self._check_values()

    def _convert_types(self) -> None:
        """Turn an int into the float, a list into the tuple a setting needs; refuse what it cannot hold."""
        for f in dataclasses.fields(self):
            value, wanted = getattr(self, f.name), type(f.default)
            if type(value) is int and abs(value) >= 2**63:
                raise ValueError(f"{f.name} is a number of more than 63 bits: {f.metadata['doc']}")
            if wanted is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif wanted is tuple and isinstance(value, list):
                object.__setattr__(self, f.name, tuple(value))
            elif type(value) is not wanted:
                raise ValueError(f"{f.name}={value!r} must be {wanted.__name__}: {f.metadata['doc']}")

    def _check_imitation(self) -> None:
        imitation = imitation_in(self.method)
        if imitation in self.architecture.family.undefined:
            raise ValueError(
                f"{imitation} is not defined for {self.student}: it needs a feature pyramid with anchors"
            )
        if imitation and not self.architecture.detector_teacher:
            raise ValueError(f"there is no stronger detector that {self.student} could imitate")

    def _check_values(self) -> None:
        for name, choices in {
            "norm": ["frozen", "batch"],
            "optimizer": ["sgd", "adamw"],
            "schedule": ["step", "cosine"],
            "precision": ["no", "bf16", "fp16"],
            "teacher_dtype": ["float32", "bfloat16"],
            "roi_align": ["operator", "weighted_sum"],
            "eval_split": ["val", "test"],
        }.items():
            known(getattr(self, name), choices, name)
        for name in POSITIVE:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        check_reference("backbone_weights", self.backbone_weights, SOURCES)
        check_reference("teacher_weights", self.teacher_weights, ("",))
        check_reference("detector_teacher_weights", self.detector_teacher_weights, ("", *SOURCES))
        for f in dataclasses.fields(self):
            if isinstance(f.default, float) and not math.isfinite(getattr(self, f.name)):
                raise ValueError(f"{f.name}={getattr(self, f.name)} must be a finite number")
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share={self.train_share} must be above 0 and at most 1")
        if self.patience and not self.keep_best_every:
            raise ValueError(f"patience={self.patience} needs keep_best_every, the steps between evaluations")
        if not 0 <= self.draw < int(1 / self.train_share):
            raise ValueError(
                f"draw={self.draw} must be 0 or more, and below the number of parts of "
                f"train_share={self.train_share}"
            )
        for name in NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} must be {low} to {high}")
        if not all(type(share) in (int, float) and 0 <= share <= 1 for share in self.milestones):
            raise ValueError(f"milestones={list(self.milestones)} must be numbers from 0 to 1")

    @property
    def architecture(self) -> Architecture:
        """The student's traits."""
        return ARCHITECTURES[self.student]

    @property
    def imitation_weight(self) -> float:
        """The factor ``lambda_*`` on the weights of the method's imitation part; 1.0 if it has none."""
        imitation = imitation_in(self.method)
        return getattr(self, IMITATION_WEIGHTS[imitation]) if imitation else 1.0

    @property
    def name(self) -> str:
        return f"{self.student}.{self.method}.s{self.seed}"

    def identity(self) -> dict:
        """The settings this run's numbers depend on, see ``identity.run_identity``."""
        return run_identity(self)

    def hash(self) -> str:
        """Twelve hexadecimal digits that name this run's identity."""
        return digest(self.identity())

    def with_hashes(self) -> Experiment:
        """The same experiment; the files of weights that it reads are named ``NAME@HASH``.

        Its identity then stays, and none but these weights are loaded, if a file is replaced meanwhile.
        """
        files = [name for name in self.identity() if name.endswith("_weights")]
        return self.replace(**{name: with_hash(getattr(self, name)) for name in files})

    def replace(self, **changes) -> Experiment:
        """A copy with some settings changed.

        Raises:
            ValueError: for a setting that does not exist, naming the nearest.
        """
        names = [f.name for f in dataclasses.fields(self)]
        for key in changes:
            known(key, names, "setting")
        return dataclasses.replace(self, **changes)


def scale_names() -> list[str]:
    """The scales there are: the YAML files in ``scales/``."""
    return sorted(path.stem for path in SCALES.glob("*.yaml"))


def check_scale(scale: str, presets: bool = False) -> str:
    """``scale`` if there is one of that name; else a ValueError that names the scales.

    Args:
        presets: a preset of `train` is accepted too.
    """
    return known(scale, [*scale_names(), *(preset_names() if presets else [])], "SCALE")


def preset_names() -> list[str]:
    """The presets of `train`: the YAML files in ``presets/``."""
    return sorted((path.stem for path in PRESETS.glob("*.yaml")), reverse=True)


def preset_student(preset: str) -> str:
    """The student that a preset is made for."""
    return _read_scale(known(preset, preset_names(), "preset"))["student"]


def scale_settings(scale: str, student: str, data: str = "badges") -> dict:
    """The settings that the YAML of a scale or preset changes for a student.

    The entries ``common``, the student's entry of ``families`` and the student's own entry apply in this
    order. For other data than the embedded ones, the same three entries of ``own_data`` follow, where the
    YAML has them.

    Raises:
        ValueError: for an unknown scale or student; for a wrong entry or value, naming the YAML.
    """
    text = _read_scale(scale)
    known(student, ARCHITECTURES, "student")
    settings: dict = {}
    for layer in (text, {} if data in EMBEDDED else text.get("own_data", {})):
        settings |= layer.get("common", {})
        settings |= layer.get("families", {}).get(ARCHITECTURES[student].family.name, {})
        settings |= layer.get("students", {}).get(student, {})
    try:
        Experiment().replace(**{**settings, "student": student})
    except ValueError as error:
        raise ValueError(f"{_scale_file(scale)}: {student}: {error}") from error
    return settings


def scale_tables(scale: str) -> dict:
    """What a scale changes in the tables; {} where it has the paper's own students.

    The entries of ``tables`` in its YAML: ``in_place_of`` (student -> the paper's student whose rows it has),
    ``ablated`` (the student of the tables that name none), ``more_rows`` (table -> student -> methods that
    the paper does not have there), ``choices`` (student -> method, setting, values and, where it is not that
    of the table, the first seed), ``choices_with`` (settings of all of them), ``first_seed`` (table -> its
    first seed, where that is not 0), ``teachers`` (of Table 3b: name, input size, settings), ``draws`` (seed
    s has the draw s modulo this number), ``controls`` (the students of that table), ``tuned`` (student ->
    method -> settings of its own row) and ``split`` (the one that tables report; data without it is refused).
    """
    return _read_scale(scale).get("tables", {})


def scale_data(scale: str) -> dict:
    """How many Badges scenes a scale has per split."""
    return _read_scale(scale)["badges"]


def draw_of(scale: str, seed: int) -> int:
    """The draw of training set, initial weights and teacher that a seed has at a scale."""
    return seed % scale_tables(scale).get("draws", 1)


@cache
def _read_scale(scale: str, *above: str) -> dict:
    """A scale's or preset's YAML; what it does not say is that of the scale it names under ``like``.

    Args:
        above: the scales whose ``like`` led here; its own may name none of them.

    Raises:
        ValueError: for an unknown scale, and for a file with an entry that is unknown, wrong or missing.
    """
    path = _scale_file(scale)
    text = read_yaml(path)
    try:
        _check_entries(text)
        if "like" in text:
            names = [*above, scale]
            others = [name for name in (*scale_names(), *preset_names()) if name not in names]
            text = _merged(_read_scale(known(text.pop("like"), others, "scale in like"), *names), text)
        for name in ("badges",) if path.parent == SCALES else ("badges", "student"):
            if name not in text:
                raise ValueError(f"{name} is missing")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return text


def _scale_file(scale: str) -> Path:
    """The YAML of a scale or preset. Raises ValueError if there is none of that name."""
    return PRESETS / f"{scale}.yaml" if scale in preset_names() else SCALES / f"{check_scale(scale)}.yaml"


def _check_entries(text: object) -> None:
    """Check the names of a scale's entries, families, students and settings.

    Raises:
        ValueError: for one that does not exist, or an entry of another type.
    """
    families = [family.name for family in FAMILIES]
    settings = [f.name for f in dataclasses.fields(Experiment)]

    def entries(holder: object, where: str, valid: Iterable[str]) -> dict:
        if not isinstance(holder, dict):
            raise ValueError(f"{where} is {holder!r:.60}, must hold entries")
        for key in holder:
            known(key, valid, f"entry of {where}")
        return holder

    whole = entries(text, "the file", SCALE_ENTRIES)
    own_data = entries(whole.get("own_data", {}), "own_data", ("common", "families", "students"))
    for layer, place in ((whole, ""), (own_data, "own_data: ")):
        entries(layer.get("common", {}), f"{place}common", settings)
        for group, valid in (("families", families), ("students", list(ARCHITECTURES))):
            for name, changed in entries(layer.get(group, {}), f"{place}{group}", valid).items():
                entries(changed, f"{place}{group}: {name}", settings)
    badges = entries(whole.get("badges", {}), "badges", ("train", "val", "test", "seed"))
    for name, value in badges.items():
        if type(value) is not int or value < 0:
            raise ValueError(f"badges: {name} is {value!r:.60}, must be a whole number >= 0")
    if not isinstance(whole.get("tables", {}), dict):
        raise ValueError(f"tables is {whole['tables']!r:.60}, must hold entries")


def _merged(below: dict, above: dict) -> dict:
    """Nested dictionaries as one; ``above`` has precedence."""
    both = {
        key: _merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return below | above | both


def experiment(scale: str, student: str, method: str = "baseline", seed: int = 0, **overrides) -> Experiment:
    """The Experiment of one cell of a table.

    Where ``overrides`` change SGD's batch size but not its learning rate, the rate follows in proportion, by
    the linear rule of Goyal et al. 2017.

    Raises:
        ValueError: for an unknown scale, student, method or setting, naming the valid ones.
    """
    settings = {
        **scale_settings(scale, student, overrides.get("data", "badges")),
        "student": student,
        "method": method,
        "seed": seed,
        "draw": draw_of(scale, seed),
    }
    at_scale, e = Experiment().replace(**settings), Experiment().replace(**{**settings, **overrides})
    if e.optimizer == "sgd" and e.batch_size != at_scale.batch_size and "lr" not in overrides:
        e = e.replace(lr=at_scale.lr * e.batch_size / at_scale.batch_size)
    return e


def parse_overrides(texts: Iterable[str]) -> dict[str, object]:
    """The settings of ``--set``: ``["steps=20", "lr=0.1"]`` -> ``{"steps": 20, "lr": 0.1}``.

    A file of weights is named ``NAME@HASH``, so that all that one command does is of the same weights.

    Raises:
        ValueError: for one that is not of this form, is there twice, or is not to be changed this way.
        WeightsError: for a file of weights that does not exist.
    """
    overrides: dict[str, object] = {}
    for key, value in map(parse_override, texts):
        if key in overrides:
            raise ValueError(f"SET names {key} twice; name it once")
        overrides[key] = with_hash(str(value)) if key.endswith("_weights") else value
    check_overrides(overrides)
    return overrides


def check_overrides(overrides: Iterable[str], *fixed: str) -> None:
    """Check the names of settings that are to be changed.

    Args:
        fixed: further settings that cannot be changed.

    Raises:
        ValueError: if one is ``FIXED``: it would be ignored, or name other data than those that are read.
    """
    if names := sorted({*FIXED, *fixed} & set(overrides)):
        raise ValueError(
            f"SET cannot change {', '.join(names)}: student, method, seed, scale and data have options of "
            "their own, the rest follows from the data"
        )


def parse_override(text: str) -> tuple[str, object]:
    """``steps=20`` -> ``("steps", 20)``: the value as YAML reads it; that of a text as it is."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"override {text!r} must look like setting=value")
    if isinstance(getattr(Experiment, key, None), str):  # a file may be called `no` or `[a`
        return key, value
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        shown = f"{text[:60]!r}..." if len(text) > 60 else repr(text)
        raise ValueError(f"override {shown} must look like setting=value ({error})") from error
    try:  # YAML 1.1 reads 1e-4 as a string
        parsed = float(parsed) if isinstance(parsed, str) else parsed
    except ValueError:
        pass
    return key, parsed
