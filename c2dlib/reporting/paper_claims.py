"""The comparisons: sentences of the paper about its tables, and controls that this project adds.

Each names the rows and metrics whose difference it is about. They are descriptive; verdicts are given on the
primary claims (``primary_claims``) only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from c2dlib.config.methods import IMITATIONS, canonical
from c2dlib.evaluation.tide import BOXES
from c2dlib.reporting.labels import method_label
from c2dlib.reporting.work_list import (
    ABLATED,
    CONTROL,
    REWEIGHTED,
    SCHEDULES,
    SHARES,
    TABLES,
    student_here,
    tuned_rows,
)

COMPACT = ["SSD300-VGG16", "SSD512-VGG16", "FasterRCNN-MV2", "FasterRCNN-QR50"]
SOURCES = {
    **{name: table.title.split(":")[0] for name, table in TABLES.items() if name != "choices"},
    "figure3": "Figure 3",
}


@dataclass(frozen=True)
class RowChoice:
    """The one row of a student that has this method and these settings.

    A setting that is not named may have any value.
    """

    method: str  # as in ``methods.canonical``
    settings: dict = field(default_factory=dict)  # in the names and units of the table's columns


def row(method: str, **settings) -> RowChoice:
    """``row("KDcls", lambda_kc=0.4, T=2)``: a row by its method and the settings that its table varies."""
    return RowChoice(canonical(method), settings)


BASELINE, LABELS = row("baseline"), row(CONTROL)
KD_CLS, LOC, LOC_KD_LOC, C2D = row("KDcls"), row("loc"), row("loc+KDloc"), row("ours")
OVER_LABELS = "raises mAP more than the label control"


@dataclass(frozen=True)
class Gain:
    """The difference of a metric between two rows of a student: that of ``row`` minus that of ``over``."""

    student: str
    row: RowChoice
    over: RowChoice = BASELINE
    metric: str = "mAP"  # a metric of the records; with ``iou`` a type of TIDE error, or BOXES
    iou: int | None = None  # in percent


@dataclass(frozen=True)
class Claim:
    """A sentence about rows of one table.

    It is true where the mean of ``gains`` exceeds the mean of ``than`` (0 if empty).
    """

    source: str  # a key of SOURCES; Figure 3 is about the rows of Table 1
    sentence: str
    gains: tuple[Gain, ...]
    than: tuple[Gain, ...] = ()
    control: bool = False  # the paper does not make this claim

    @property
    def students(self) -> list[str]:
        return list(dict.fromkeys(gain.student for gain in (*self.gains, *self.than)))

    @property
    def text(self) -> str:
        return self.sentence if len(self.students) > 1 else f"{self.students[0]}: {self.sentence}"


def claims() -> list[Claim]:
    """All claims in the paper's order, with the controls of this project."""
    return [
        *_losses(),
        *_detector_to_detector(),
        *_table2_extended(),
        *_ablations(),
        *_overlap(),
        *_controls(),
        *_own_losses(),
        *_sizes(),
        *_schedules(),
        *_errors(),
    ]


def claims_at(scale: str) -> list[Claim]:
    """The claims on the students of a scale: where others take the places of the paper's, on those.

    A claim on a student of the paper whose place nobody takes is left out. KD_cls is also compared with
    labels that have settings of their own, where a scale has such a row.
    """
    changed = [
        _claim(
            "controls",
            f"KD_cls raises mAP more than labels with {line['changed']}",
            Gain(line["student"], row("KDcls"), row(CONTROL, changed=line["changed"])),
            control=True,
        )
        for line in tuned_rows(scale)
        if line["method"] == CONTROL
    ]
    for claim in claims():
        table = "table1" if claim.source == "figure3" else claim.source
        here = {student: student_here(student, table, scale) for student in claim.students}
        if None not in here.values():
            gains, than = (
                tuple(replace(gain, student=here[gain.student]) for gain in part)
                for part in (claim.gains, claim.than)
            )
            changed.append(replace(claim, gains=gains, than=than))
    return changed


def _claim(source: str, sentence: str, gain: Gain, than: Gain | None = None, control: bool = False) -> Claim:
    return Claim(source, sentence, (gain,), (than,) if than else (), control)


def _losses() -> list[Claim]:
    """Table 1; what compares students with one another is left to the primary claims."""
    every = []
    for s in COMPACT:
        every += [
            _claim("table1", *what)
            for what in (
                ("KD_cls raises mAP", Gain(s, KD_CLS)),
                (f"KD_cls {OVER_LABELS}", Gain(s, KD_CLS, LABELS), None, True),
                (
                    "KD_cls raises AP50 more than AP75",
                    Gain(s, KD_CLS, metric="AP50"),
                    Gain(s, KD_CLS, metric="AP75"),
                ),
                ("loc raises mAP", Gain(s, LOC)),
                ("loc + KD_loc raises mAP", Gain(s, LOC_KD_LOC)),
                (
                    "loc + KD_loc raises AP75 more than AP50",
                    Gain(s, LOC_KD_LOC, metric="AP75"),
                    Gain(s, LOC_KD_LOC, metric="AP50"),
                ),
                ("C2D raises mAP", Gain(s, C2D)),
                ("C2D is better than KD_cls alone", Gain(s, C2D, KD_CLS)),
                ("C2D is better than loc + KD_loc alone", Gain(s, C2D, LOC_KD_LOC)),
            )
        ]
    return every


def _detector_to_detector() -> list[Claim]:
    """Table 2."""
    others = {"FasterRCNN-R50": ["KD", "FGFI", "GID"], "RetinaNet-R50": ["FGFI", "GID"]}
    every = []
    for s in ("FasterRCNN-R50", "RetinaNet-R50", "FasterRCNN-MV2", "FasterRCNN-QR50", "SSD512-VGG16"):
        for method in (*others.get(s, []), "FKD"):
            c2d_is_better = method == "KD" or s in ("FasterRCNN-QR50", "SSD512-VGG16")
            better, worse = ("ours", method) if c2d_is_better else (method, "ours")
            every += [
                _claim("table2", f"{method} raises mAP", Gain(s, row(method))),
                _claim(
                    "table2",
                    f"{method_label(better)} is better than {method_label(worse)}",
                    Gain(s, row(better), row(worse)),
                ),
            ]
        every += [
            _claim("table2", "C2D raises mAP", Gain(s, C2D)),
            _claim("table2", f"C2D {OVER_LABELS}", Gain(s, C2D, LABELS), control=True),
            _claim("table2", "C2D + FKD is better than FKD", Gain(s, row("ours+FKD"), row("FKD"))),
            _claim("table2", "C2D + FKD is better than C2D", Gain(s, row("ours+FKD"), C2D)),
        ]
    return every


def _table2_extended() -> list[Claim]:
    every = []
    for line in TABLES["table2x"].own_lines("mini"):
        s, method = line["student"], line["method"]
        if method in IMITATIONS and method != "FKD":  # Table 2 has FKD
            every.append(
                _claim(
                    "table2x",
                    f"C2D + {method} is better than {method}",
                    Gain(s, row(f"ours+{method}"), row(method)),
                    control=True,
                )
            )
        elif s in ("FCOS-R50", "MaskRCNN-R50") and method != "baseline":
            name = method_label(method).replace("KDcls", "KD_cls")
            every += [
                _claim("table2x", f"{name} raises mAP", Gain(s, row(method)), control=True),
                _claim("table2x", f"{name} {OVER_LABELS}", Gain(s, row(method), LABELS), control=True),
            ]
    return every


def _ablations() -> list[Claim]:
    """Tables 3a, 3b and 4."""

    def kd_cls(lambda_kc: float, temperature: int) -> RowChoice:
        return row("KDcls", lambda_kc=lambda_kc, T=temperature)

    def teacher(name: str, size: int) -> RowChoice:
        return row("KDcls", teacher=name, input_size=size)

    def table4(method: str, ablation: str, size: int, pool: int, layers: str) -> RowChoice:
        return row(method, ablation=ablation, sampling_size=size, pooling_size=pool, layers=layers)

    best, resnet50, both_layers = (
        kd_cls(0.4, 2),
        teacher("ResNet50", 112),
        table4("loc+KDloc", "c", 112, 8, "obj+l0"),
    )
    return [
        _claim(table, sentence, Gain(ABLATED, better, over), control=over is LABELS)
        for table, sentence, better, over in (
            ("table3a", "λ_kc = 0.4 with T = 2 raises mAP", best, BASELINE),
            ("table3a", f"λ_kc = 0.4 with T = 2 {OVER_LABELS}", best, LABELS),
            ("table3a", "λ_kc = 0.4 is better than 0.1", best, kd_cls(0.1, 2)),
            ("table3a", "T = 2 is better than 1", best, kd_cls(0.4, 1)),
            ("table3a", "T = 2 is better than 3", best, kd_cls(0.4, 3)),
            ("table3b", "ResNet50 as teacher raises mAP", resnet50, BASELINE),
            ("table3b", f"ResNet50 as teacher {OVER_LABELS}", resnet50, LABELS),
            ("table3b", "ResNet50 is a better teacher than ResNet18", resnet50, teacher("ResNet18", 112)),
            (
                "table3b",
                "ResNet50 is a better teacher than ResNeXt101, which is more accurate in the paper",
                resnet50,
                teacher("ResNeXt101-32x8d", 112),
            ),
            (
                "table3b",
                "ResNet50 is a better teacher with input of 112 px than of 56",
                resnet50,
                teacher("ResNet50", 56),
            ),
            (
                "table3b",
                "ResNet50 is a better teacher with input of 112 px than of 224",
                resnet50,
                teacher("ResNet50", 224),
            ),
            ("table4", "loc raises mAP (s 112, p 4)", table4("loc", "a", 112, 4, "obj"), BASELINE),
            (
                "table4",
                "loc is better with crops of 112 px than of 14",
                table4("loc", "a", 112, 4, "obj"),
                table4("loc", "a", 14, 4, "obj"),
            ),
            (
                "table4",
                "loc is better with 8 x 8 cells than with 2 x 2",
                table4("loc", "b", 112, 8, "obj"),
                table4("loc", "b", 112, 2, "obj"),
            ),
            (
                "table4",
                "loc is better with 8 x 8 cells than with 16 x 16",
                table4("loc", "b", 112, 8, "obj"),
                table4("loc", "b", 112, 16, "obj"),
            ),
            (
                "table4",
                "l0 and the crops are better than the crops alone",
                both_layers,
                table4("loc", "c", 112, 8, "obj"),
            ),
            (
                "table4",
                "l0 and the crops are better than l0 alone",
                both_layers,
                table4("KDloc", "c", 112, 8, "l0"),
            ),
            (
                "table4",
                "l0 and the crops are better than with l1 added",
                both_layers,
                table4("loc+KDloc", "c", 112, 8, "obj+l0+l1"),
            ),
        )
    ]


def _overlap() -> list[Claim]:
    """Table 5."""

    def gain(method: RowChoice, metric: str) -> Gain:
        return Gain(ABLATED, method, metric=metric)

    return [
        _claim("table5", *what)
        for what in (
            ("KD_cls raises AP50", gain(KD_CLS, "AP50")),
            ("KD_cls gains more at IoU 0.50 than at 0.90", gain(KD_CLS, "AP50"), gain(KD_CLS, "AP90")),
            ("loc + KD_loc raises AP75", gain(LOC_KD_LOC, "AP75")),
            ("loc + KD_loc raises AP90", gain(LOC_KD_LOC, "AP90")),
            (
                "loc + KD_loc gains more at IoU 0.90 than at 0.50",
                gain(LOC_KD_LOC, "AP90"),
                gain(LOC_KD_LOC, "AP50"),
            ),
        )
    ]


def _controls() -> list[Claim]:
    smooth, mean, permuted = map(row, ("KDcls-smooth", "KDcls-mean", "KDcls-permuted"))
    loc_l1, both_l1, loc_other, free = map(row, ("loc-L1", "loc-L1+KDloc-L1", "loc-other", "C2D-free"))
    ap75_of_boxes = {"metric": BOXES, "iou": 75}
    return [
        _claim("controls", sentence, Gain(ABLATED, better, over, **metric), control=True)
        for sentence, better, over, metric in (
            ("KD_cls raises mAP", KD_CLS, BASELINE, {}),
            (f"KD_cls {OVER_LABELS}", KD_CLS, LABELS, {}),
            ("KD_cls raises mAP more than evenly smoothed labels", KD_CLS, smooth, {}),
            (
                "KD_cls raises mAP more than the teacher's mean probabilities of each class: "
                "the single instance matters",
                KD_CLS,
                mean,
                {},
            ),
            (
                "KD_cls raises mAP more than the teacher's probabilities for a random object of the class: "
                "the single instance matters",
                KD_CLS,
                permuted,
                {},
            ),
            (
                "the teacher's mean probabilities of each class raise mAP more than evenly smoothed labels: "
                "class similarity matters",
                mean,
                smooth,
                {},
            ),
            (
                "evenly smoothed labels raise mAP more than the label control: softness matters",
                smooth,
                LABELS,
                {},
            ),
            (
                "loc raises mAP more than an L1 box loss with equally long gradients: the image matters",
                LOC,
                loc_l1,
                {},
            ),
            (
                "loc raises AP75 more than an L1 box loss with equally long gradients",
                LOC,
                loc_l1,
                {"metric": "AP75"},
            ),
            (
                "loc raises mAP more than loc on the pixels of another image: the image's content matters",
                LOC,
                loc_other,
                {},
            ),
            (
                "loc + KD_loc raises mAP more than L1 box losses with equally long gradients",
                LOC_KD_LOC,
                both_l1,
                {},
            ),
            (
                "loc + KD_loc raises AP75 more than L1 box losses with equally long gradients",
                LOC_KD_LOC,
                both_l1,
                {"metric": "AP75"},
            ),
            ("C2D raises mAP more than C2D-free, whose step has no teacher", C2D, free, {}),
            ("an L1 box loss raises AP75 of the boxes alone", loc_l1, BASELINE, ap75_of_boxes),
            ("loc raises AP75 of the boxes alone more than an L1 box loss", LOC, loc_l1, ap75_of_boxes),
            (
                "loc + KD_loc raises AP75 of the boxes alone more than L1 box losses",
                LOC_KD_LOC,
                both_l1,
                ap75_of_boxes,
            ),
        )
    ]


def _own_losses() -> list[Claim]:
    """Table ``reweighted``: the losses against more weight on the same term, and against as much computing.

    KD_cls and loc, whose steps cost less, have the baseline of 1.2 times the steps, the others that of 1.9.
    """
    classes, boxes = ("foreground x 1.5",), ("boxes x 2", "boxes x 4")
    return [
        _claim(
            "reweighted",
            f"{name} raises mAP more than the baseline with {text}",
            Gain(ABLATED, method, row(REWEIGHTED[text][0], own_losses=text)),
            control=True,
        )
        for name, method, same_term, as_long in (
            ("KD_cls", KD_CLS, classes, "steps x 1.2"),
            ("loc", LOC, boxes, "steps x 1.2"),
            ("loc + KD_loc", LOC_KD_LOC, boxes, "steps x 1.9"),
            ("C2D", C2D, (*classes, *boxes), "steps x 1.9"),
        )
        for text in (*same_term, as_long)
    ]


def _sizes() -> list[Claim]:
    def gain(method: str, share: float, over: str = "baseline") -> Gain:
        return Gain(ABLATED, row(method, train_share=share), row(over, train_share=share))

    every = []
    for share in SHARES:
        images = f"with {share:.3g} of the images" if share < 1 else "with all images"
        every += [
            _claim("sizes", f"{what} {images}", effect, control=True)
            for what, effect in (
                ("KD_cls raises mAP", gain("KDcls", share)),
                (f"KD_cls {OVER_LABELS}", gain("KDcls", share, CONTROL)),
                ("C2D raises mAP", gain("ours", share)),
            )
        ]
    return [
        *every,
        _claim(
            "sizes",
            f"KD_cls gains more with {SHARES[0]:.3g} of the images than with all",
            gain("KDcls", SHARES[0]),
            gain("KDcls", 1.0),
            control=True,
        ),
    ]


def _schedules() -> list[Claim]:
    def gain(times: int, method: str, over: str = "baseline", **metric) -> Gain:
        return Gain(ABLATED, row(method, schedule=times), row(over, schedule=times), **metric)

    every = []
    for times in SCHEDULES[1:]:
        every += [
            _claim("schedules", f"{what} after {times} times the steps", effect, control=True)
            for what, effect in (
                ("KD_cls raises mAP", gain(times, "KDcls")),
                (f"KD_cls {OVER_LABELS}", gain(times, "KDcls", CONTROL)),
                ("loc + KD_loc raises mAP", gain(times, "loc+KDloc")),
                ("loc + KD_loc raises AP75", gain(times, "loc+KDloc", metric="AP75")),
                (
                    "loc + KD_loc raises AP75 of the boxes alone",
                    gain(times, "loc+KDloc", metric=BOXES, iou=75),
                ),
                ("C2D raises mAP", gain(times, "ours")),
                ("C2D is better than KD_cls alone", gain(times, "ours", "KDcls")),
            )
        ]
    return every


def _errors() -> list[Claim]:
    """Figure 3, on the runs of Table 1.

    A method reduces an error if the baseline's cost minus the method's cost is above 0.
    """
    every = []
    for s in COMPACT:

        def reduction(method: RowChoice, kind: str, iou: int, s: str = s) -> Gain:
            return Gain(s, BASELINE, method, kind, iou)

        every += [
            _claim("figure3", *what)
            for what in (
                ("KD_cls reduces classification error at IoU 0.50", reduction(KD_CLS, "Cls", 50)),
                (
                    "KD_cls reduces classification error more at IoU 0.50 than at 0.75",
                    reduction(KD_CLS, "Cls", 50),
                    reduction(KD_CLS, "Cls", 75),
                ),
                ("loc + KD_loc reduces localisation error at IoU 0.75", reduction(LOC_KD_LOC, "Loc", 75)),
                ("loc + KD_loc reduces localisation error at IoU 0.90", reduction(LOC_KD_LOC, "Loc", 90)),
                (
                    "loc + KD_loc reduces localisation error more at IoU 0.90 than at 0.60",
                    reduction(LOC_KD_LOC, "Loc", 90),
                    reduction(LOC_KD_LOC, "Loc", 60),
                ),
            )
        ]
        every += [
            _claim(
                "figure3",
                f"{name} raises AP{iou} of the boxes alone",
                Gain(s, method, metric=BOXES, iou=iou),
                control=True,
            )
            for name, method in (("loc", LOC), ("loc + KD_loc", LOC_KD_LOC), ("KD_cls", KD_CLS))
            for iou in (75, 90)
        ]
        every.append(
            _claim(
                "figure3",
                "C2D raises AP75 of the boxes alone more than KD_cls",
                Gain(s, C2D, KD_CLS, BOXES, 75),
                control=True,
            )
        )
    return every
