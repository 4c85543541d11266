"""What the notebooks share: the workspace, an example image, and a call each for training, table and verdict.

A notebook first makes one of these pages. It then shows what the page holds, itself or by a function of
``figures``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from IPython.display import Markdown
from torch import Tensor, nn
from torchvision.ops import nms

from c2dlib.config.experiment import Experiment
from c2dlib.config.methods import canonical, needs_classifier
from c2dlib.data.augment import plain_transform
from c2dlib.evaluation import tide
from c2dlib.figures.explorer import explore
from c2dlib.figures.images import Labelled, compare_detections, detections, top_results
from c2dlib.figures.style import Picture, save
from c2dlib.figures.teacher import teacher_view
from c2dlib.records import ROOT, RunRecord, circumstances
from c2dlib.reporting import claims, errors, ledger, tables
from c2dlib.reporting.evidence import evidence
from c2dlib.reporting.labels import method_label, run_labels, without_masks
from c2dlib.reporting.markdown import as_text, folded, markdown_table, number, without_columns
from c2dlib.reporting.notebooks import HEADLESS
from c2dlib.reporting.notes import comparison, notes
from c2dlib.reporting.statistics import Difference, difference_text, paired_difference
from c2dlib.reporting.work_list import TABLES, Row, ablated, experiments, first_seed, work_list
from c2dlib.teacher.classifier import Teacher
from c2dlib.teacher.crops import crop_regions
from c2dlib.training.classifiers import classifier_teacher
from c2dlib.training.finished import finished, run_detections, trained_student
from c2dlib.training.run import experiment_for, run
from c2dlib.training.schedule import run_all
from c2dlib.workspace import PUBLISHED_WEIGHTS, open_workspace

TRAIN_HERE = "With `published = False` in the parameters, what is missing is trained on this machine."


class Example(NamedTuple):
    """One image with its objects."""

    image: Tensor  # [3, H, W] in 0..1
    boxes: Tensor  # [N, 4] xyxy pixels of the image
    labels: Tensor  # [N] 0..C-1


class Page:
    """The workspace and the data of a notebook.

    Args:
        scale, data, device, results, runs: the notebook's parameters of the same names; an empty ``data`` is
            the embedded set, empty ``results`` and ``runs`` are those of the repository.
        published: show what the project publishes, and train and write nothing. False: what this machine
            computes; whatever is missing is trained.

    Raises:
        DataError: naming everything that is wrong with the data.
        FileNotFoundError: if nothing is published on these data at this scale.
    """

    def __init__(
        self,
        scale: str,
        data: str = "",
        device: str = "auto",
        results: str = "",
        runs: str = "",
        published: bool = False,
    ):
        self.workspace, self.folder = open_workspace(
            scale, data, Path(results or ROOT / "results"), Path(runs or ROOT / "runs"), device
        )
        self.published = published
        if published:
            self.workspace = self.workspace.of_published()
            if not self.workspace.results.is_dir():
                raise FileNotFoundError(
                    f"nothing is published of {self.workspace.results.name}. {TRAIN_HERE}"
                )
        self.split = self.folder.splits[self.folder.eval_split]
        self.class_names = self.split.class_names
        self.student = ablated(scale)  # unless a notebook names another

    @property
    def writes(self) -> bool:
        """Whether results are written: a notebook that is opened leaves the published ones as they are."""
        return not self.published or HEADLESS in os.environ

    def where(self) -> Markdown:
        """The validated data, the commit, the device and the versions of this session."""
        warnings = "".join(f"\n- {as_text(warning)}" for warning in self.folder.report.warnings)
        return Markdown(
            f"```text\n{self.folder.report.summary()}\n```\n{warnings}\n\n{session(self.workspace.device)}"
        )

    @cached_property
    def example(self) -> Example:
        """The first image of the evaluation split with three to six objects, else the first with any."""
        rows = self.split.with_boxes()
        row = next((i for i in rows if 3 <= len(self.split[i][1]["boxes"]) <= 6), rows[0])
        return self._example(row)

    def _example(self, row: int) -> Example:
        image, target = self.split[row]
        return Example(plain_transform()(image), target["boxes"].as_subclass(Tensor), target["labels"] - 1)

    def show_example(self) -> Picture:
        """The example with its ground truth."""
        image, boxes, labels = self.example
        return detections(image, Labelled(boxes, [self.class_names[c] for c in labels]), {})

    def teacher(self, e: Experiment) -> Teacher:
        """The classification teacher of an experiment, on the CPU; trained if it is missing.

        Raises:
            FileNotFoundError: if it is not among the published weights, and those are shown.
        """
        return self._teacher(e)[0].cpu()

    def _teacher(self, e: Experiment) -> tuple[Teacher, dict]:
        """The teacher and its report."""
        with _train_here():
            return classifier_teacher(e, self.workspace, read_only=self.published)

    def detector(self, e: Experiment) -> nn.Module:
        """The student of an experiment, trained if it is missing; see ``teacher`` for what it raises."""
        if not self.published:
            run(e, self.workspace, with_weights=True)
        with _train_here():
            return trained_student(e, self.workspace)

    def records_of(self, experiments: list[Experiment], jobs: int) -> list[RunRecord]:
        """The records of runs whose weights and detections are here; the missing ones are trained.

        Raises:
            FileNotFoundError: if one is missing, and the published ones are shown.
            RuntimeError: if a run ended without a result.
        """
        if not self.published:
            run_all(experiments, self.workspace, jobs, with_weights=True)
        found = [finished(e, self.workspace, with_weights=True) for e in experiments]
        missing = [e.name for e, record in zip(experiments, found, strict=True) if record is None]
        if missing and self.published:
            raise FileNotFoundError(f"no published weights of {', '.join(missing)}. {TRAIN_HERE}")
        if missing:
            raise RuntimeError(f"{', '.join(missing)} ended without a result; see the messages above")
        return [record for record in found if record]

    def about_teacher(self, e: Experiment) -> Markdown:
        """The accuracy of an experiment's teacher, from its report; a teacher near chance is named as one."""
        report, chance = self._teacher(e)[1], 100 / len(self.class_names)
        shipped = self.workspace.runs == PUBLISHED_WEIGHTS
        origin = "published weights, checked by their hash" if shipped else "trained on this machine"
        text = (
            f"The teacher is a {e.teacher} (width × {e.teacher_width:g}, crops of {e.teacher_size} px; "
            f"{origin}): "
            f"**{report['top1']:.1f} %** of {report['crops']} crops of {report['split']} are classified "
            f"correctly. Chance is {chance:.1f} %; the paper's teacher has 80.3 % on COCO."
        )
        if report["top1"] < 2 * chance:
            text += (
                f" **So this teacher is little better than chance**: at scale {self.workspace.scale} it is "
                f"trained for {e.teacher_steps} steps. What follows shows how the method computes, not what "
                "a teacher knows."
            )
        return Markdown(text)

    def keep(self, figure: Picture, name: str) -> Picture:
        """Write a figure beside the results and return it."""
        return save(figure, self.workspace.results / name) if self.writes else figure

    def detections_of(self, experiments: list[Experiment]) -> Picture:
        """The example with its ground truth, and as many boxes of each experiment's student as objects.

        A box that overlaps one of higher score by an IoU above 0.5 is left out.
        """
        image, boxes, labels = self.example
        truth, found = Labelled(boxes, [self.class_names[c] for c in labels]), {}
        for e in experiments:
            detector = self.detector(e)  # it may be trained here, so with gradients
            with torch.inference_mode():
                output = detector([image])[0]
            kept = nms(output["boxes"], output["scores"], 0.5)[: len(boxes)]
            names = [self.class_names[c - 1] for c in output["labels"][kept]]
            found[method_label(e.method)] = Labelled(
                output["boxes"][kept], names, output["scores"][kept].tolist()
            )
        return detections(image, truth, found)

    def teacher_figure(self, e: Experiment) -> Picture:
        """The example's crops as the classification teacher of an experiment reads them.

        See ``teacher`` for where it comes from.
        """
        image, boxes, labels = self.example
        teacher = self.teacher(e)
        crops = crop_regions(
            image[None] * 255, boxes, torch.zeros(len(boxes), dtype=torch.int64), teacher.size
        )
        reading = teacher.read(crops, layers=1)
        probabilities = reading.logits.softmax(1)
        figure = teacher_view(crops, labels, probabilities, self.class_names, reading.maps[0])
        correct, of_truth = (
            (probabilities.argmax(1) == labels).sum(),
            probabilities[range(len(labels)), labels].mean(),
        )
        title = (
            f"{e.teacher}: {correct} of {len(labels)} objects correct,\n"
            f"mean probability of the true class {of_truth:.2f} (chance {1 / len(self.class_names):.2f})"
        )
        figure.suptitle(title)
        figure.alt = f"{title}. {figure.alt}".replace("\n", " ")
        return figure


class TablePage(Page):
    """A table's notebook: its rows as experiments, which are trained if they are missing, and their results.

    Args:
        table: a key of ``reporting.work_list.TABLES``.
        seeds: runs per row; of the published ones all.
        students, methods: only these rows; empty: all, or all that are published.
        overrides: settings of Experiment to change in every row.
        jobs: runs at once; 0: one per core, or one on a GPU.
        published: as for ``Page``.

    Raises:
        ValueError: for an unknown table, student, method or setting, naming the valid ones.
    """

    def __init__(
        self,
        table: str,
        *,
        scale: str,
        data: str,
        seeds: int,
        students: list[str],
        methods: list[str],
        overrides: dict,
        device: str,
        jobs: int,
        results: str,
        runs: str,
        published: bool = False,
    ):
        super().__init__(scale, data, device, results, runs, published)
        if published:
            rows = pd.read_csv(self.workspace.results / f"{table}.csv")
            seeds = int(rows.seeds.max())  # and no more: other tables may have further seeds of a row
            students, methods = students or list(rows.student.unique()), methods or list(rows.method.unique())
        self.name, self.seeds, self.jobs, self.overrides = table, seeds, jobs, overrides
        self.rows = work_list(
            table, self.workspace, self.folder, seeds, students, methods or None, overrides, not published
        )
        self.experiments, self.columns = experiments(self.rows), TABLES[table].from_errors
        self._read_records()

    def _read_records(self) -> None:
        self.records = tables.collect(self.rows, self.workspace)  # experiment hash -> record
        frame = tables.table(self.rows, self.records)  # a line per row, from what is finished
        self.frame = tables.with_errors(frame, self.rows, self.workspace, self.columns)

    @property
    def done(self) -> list[RunRecord]:
        """The records of the runs that finished."""
        return [record for record in self.records.values() if record.status == "done"]

    @property
    def labels(self) -> dict[str, str]:
        """Experiment hash -> the label of its row."""
        return run_labels(self.rows)

    def where(self) -> Markdown:
        """As ``Page.where``, with the number of rows and of runs that have a record."""
        runs = (
            f"{len(self.rows)} rows, {len(self.experiments)} runs; {len(self.records)} have a record already."
        )
        return Markdown(f"{super().where().data}\n\n{runs}")

    def table(self) -> Markdown:
        """Train the missing runs, print each row as it is done, write ``<table>.csv`` and ``<table>.md``.

        Returns:
            The text of ``<table>.md`` without its title and its costs, and a line about the runs.
        """
        if not self.published:
            printer = tables.Printer(self.rows, self.records)
            run_all(self.experiments, self.workspace, self.jobs, printer)
        if self.writes:
            tables.write_table(self.name, self.rows, self.workspace, self.folder)
        self._read_records()
        devices = ", ".join(sorted({record.device for record in self.done})) or "no device"
        minutes = sum(record.wall_seconds for record in self.done) / 60
        text = (self.workspace.results / f"{self.name}.md").read_text(encoding="utf-8")
        _, _, rest = text.partition("\n")
        return Markdown(
            f"{without_columns(rest.strip(), tables.COSTS)}\n\n"
            f"{len(self.done)} of {len({e.hash() for e in self.experiments})} runs are done: "
            f"{minutes:.1f} minutes of training and evaluation on {devices}."
        )

    def verdict(self) -> Markdown:
        """The verdicts on the primary claims on the table's rows; folded: the descriptive comparisons."""
        found = evidence(self.workspace, self.folder)
        of_claims = {(row.student, canonical(row.method)) for row in self.rows if self._has_own_settings(row)}
        text = ledger.verdicts(found, of_claims)
        return Markdown(
            f"{text}\n\n{folded('All comparisons of rows, descriptive', self.comparisons().data)}"
        )

    def _has_own_settings(self, row: Row) -> bool:
        """Whether a row has its scale's settings, as the claims' rows; the choices on val have others."""
        first = row.experiments[0]
        plain = experiment_for(self.workspace, self.folder, row.student, row.method, first.seed)
        return first.hash() == plain.hash()

    def comparisons(self) -> Markdown:
        """A line per comparison: the paper's difference, the reproduced one with its 95 % interval."""
        compared = claims.comparisons(self.name, self.rows, self.records, self.workspace)
        return Markdown(
            claims.summary(compared)
            if compared.empty
            else f"{claims.markdown(compared)}\n\n{claims.summary(compared)}"
        )

    def costs(self) -> Markdown:
        """What a run of each row cost."""
        return Markdown(tables.costs(self.frame))

    def comparison(self) -> Markdown:
        """A sentence per student: the gains of the methods that imitate a detector, and the gain of C2D."""
        names = without_masks(list(self.records.values()))
        return bullets(comparison(self.frame.replace({"student": names})))

    def teacher_view(self) -> Picture | Markdown:
        """The example's crops as the table's classification teacher reads them.

        Of the teachers of its students, the first whose weights are at hand. Without any, the first is
        trained, unless no row here is taught by a classifier.
        """
        students = dict.fromkeys(row.student for row in self.rows)
        teachers = [
            experiment_for(self.workspace, self.folder, student, "KDcls", **self.overrides)
            for student in students
        ]
        at_hand = next(filter(self._has_teacher, teachers), None)
        if at_hand is None and not any(needs_classifier(e.method) for e in self.experiments):
            return Markdown("No row of this table is taught by a classifier, so none was trained.")
        return self.teacher_figure(at_hand or teachers[0])

    def _has_teacher(self, e: Experiment) -> bool:
        try:
            return bool(classifier_teacher(e, self.workspace, read_only=True))
        except FileNotFoundError:
            return False

    def not_tested(self) -> Markdown:
        """What these runs cannot show."""
        return Markdown(
            "These runs did **not** test:\n\n" + bullets(claims.not_tested(self.workspace, self.seeds)).data
        )


class ErrorsPage(TablePage):
    """Figure 3: the TIDE errors of Table 1's runs. Takes the arguments of a ``TablePage`` but the table."""

    def __init__(self, **parameters):
        super().__init__("table1", **parameters)
        self.name = "figure3"

    def table(self) -> Markdown:
        """Train the runs whose errors are not known on this machine, and write ``figure3.csv`` and ``.md``.

        Afterwards ``by_iou`` and ``by_class`` hold the errors of every run.

        Returns:
            The text of ``figure3.md``.
        """
        if not self.published:
            last = first_seed("table1", self.workspace.scale) + self.seeds - 1  # further seeds are only read
            missing = [e for e in errors.unknown(self.rows, self.workspace) if e.seed <= last]
            run_all(missing, self.workspace, self.jobs, with_weights=True)
            self._read_records()
        self.by_iou, self.by_class = errors.gather(self.rows, self.workspace)
        if not self.writes:
            return Markdown(errors.figure3_text(self.by_iou))
        if self.published:
            return Markdown(errors.write_figure3(self.by_iou, self.workspace))
        every = work_list("table1", self.workspace, self.folder, with_recorded=True)
        rows = tables.with_rows_of(self.workspace.results / "figure3.csv", self.rows, every)
        return Markdown(errors.write_figure3(errors.gather(rows, self.workspace)[0], self.workspace))

    def verdict(self) -> Markdown:
        """A line per comparison of costs; no primary claim is on them."""
        return self.comparisons()

    def explorer(self):
        """The explorer of single errors, of those runs whose detections are on this machine."""
        try:
            return explore(self.experiments, self.workspace)
        except FileNotFoundError:
            return Markdown(f"The detections of these runs are not on this machine. {TRAIN_HERE}")

    def boxes_alone(self) -> pd.DataFrame:
        """AP with every class counted as one, and its change against the baseline.

        There is a line per student, method and IoU.
        """
        return errors.differences(self.by_iou, [tide.BOXES])

    def first_run(self) -> str:
        """The errors of one run at IoU 0.50: their number, and their cost in AP points."""
        run = self.by_iou[self.by_iou.IoU == 50].iloc[0]
        counted = ", ".join(f"{kind} {int(run[f'n_{kind}'])} ({run[kind]:.1f})" for kind in tide.TYPES)
        return (
            f"{run.student}, {method_label(run.method)}, seed {run.seed}: "
            f"AP50 {run.AP:.1f}; errors (cost): {counted}"
        )

    def largest(self) -> str:
        """The error type that costs each student's baseline most at IoU 0.50."""
        baselines = self.by_iou[(self.by_iou.IoU == 50) & (self.by_iou.method == "baseline")]
        means = baselines.groupby("student", sort=False)[tide.TYPES].mean()
        return "\n".join(
            f"{student}: the baseline loses most to {costs.idxmax()}, {costs.max():.1f} points; "
            f"to Loc {costs.Loc:.1f}"
            for student, costs in means.iterrows()
        )


class PairPage(Page):
    """One student trained with and without a method: gain, errors, and the images on which AP changed.

    Args:
        student, method: names of ``config``; the method is compared with ``baseline``. An empty ``student``
            is the one that the scale's notebooks show.
        seeds: the seeds to train; the errors and the images are those of the first.
        overrides: settings of Experiment to change in every run.
        jobs: runs at once; 0: one per core, or one on a GPU.
        page: scale, data, device, results, runs and published, as for ``Page``.
    """

    def __init__(self, student: str, method: str, seeds: list[int], overrides: dict, jobs: int, **page):
        super().__init__(**page)
        student = self.student = student or self.student
        self.jobs = jobs
        self.pairs = [
            {
                m: experiment_for(self.workspace, self.folder, student, m, seed, **overrides)
                for m in ("baseline", method)
            }
            for seed in seeds
        ]
        self.baseline, self.distilled = self.pairs[0].values()

    def train(self) -> Markdown:
        """Train the missing runs.

        Returns:
            mAP, AP50 and AP75 of both students per seed, and their difference with its 95 % interval.
        """
        experiments = [e for pair in self.pairs for e in pair.values()]
        records = self.records_of(experiments, self.jobs)
        self.records = dict(zip((e.hash() for e in experiments), records, strict=True))
        lines = []
        for metric in ("mAP", "AP50", "AP75"):
            baseline, distilled = (
                ", ".join(map(number, values)) for values in zip(*self._values(metric), strict=True)
            )
            lines.append([metric, baseline, distilled, difference_text(*self.gain(metric)) or "–"])
        head = ["metric", "baseline", "distilled", "difference [95 % CI]"]
        counts = self.folder.image_counts
        others = ", ".join(f"{count} for {split}" for split, count in counts.items() if split != "train")
        return Markdown(
            f"{markdown_table(head, lines, text_columns=(0, 1, 2))}\n\n"
            f"Metrics on `{self.folder.eval_split}`; {counts['train']} images for training, {others}."
        )

    def _values(self, metric: str) -> list[tuple[float, float]]:
        """Baseline and distilled student, per seed."""
        return [tuple(self.records[e.hash()].metrics[metric] for e in pair.values()) for pair in self.pairs]

    def gain(self, metric: str = "mAP") -> Difference:
        """Mean difference of the pairs, from two seeds (or draws, if there are several) on with its 95 %
        interval.
        """
        pairs = [(distilled, baseline) for baseline, distilled in self._values(metric)]
        return paired_difference(pairs, [pair["baseline"].draw for pair in self.pairs])

    def notes(self) -> Markdown:
        """What to know before believing the numbers: data, scale, teacher, device."""
        return bullets(notes(self.workspace, self.folder, self.records))

    def verdict(self) -> Markdown:
        """The change in mAP, and whether its interval excludes 0."""
        gain = self.gain()
        excluded = gain.low is not None and (gain.low > 0 or gain.high < 0)
        change = difference_text(*gain) or "–"
        return Markdown(
            f"{method_label(self.distilled.method)} changes mAP by **{change}** points "
            f"over {len(self.pairs)} seed(s): "
            + ("the interval excludes 0." if excluded else "chance is not excluded.")
        )

    @cached_property
    def results(self) -> dict[str, list[dict]]:
        """Method -> the COCO results of its first seed on the evaluation split."""
        return {method: run_detections(e, self.workspace) for method, e in self.pairs[0].items()}

    @cached_property
    def ap50(self) -> pd.DataFrame:
        """AP50 of every image by itself: columns ``baseline``, ``distilled`` and ``change``, by image id."""
        baseline, distilled = (
            tide.ap50_per_image(self.split.annotations, results) for results in self.results.values()
        )
        return pd.DataFrame({"baseline": baseline, "distilled": distilled, "change": distilled - baseline})

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The two images that gained most, the two in the middle of the order, the two that lost most."""
        return tide.telling_images(self.ap50.baseline, self.ap50.distilled)

    def compare(self) -> Picture:
        """The chosen images with their ground truth; of each student as many boxes as there are objects."""
        categories = {c["id"]: c["name"] for c in self.split.annotations["categories"]}
        lines = []
        for image_id, row in self.chosen.iterrows():
            image, boxes, labels = self._example(self.split.image_ids.index(image_id))
            detected = {
                m: top_results(results, image_id, categories, len(boxes))
                for m, results in self.results.items()
            }
            truth = Labelled(boxes, [self.class_names[c] for c in labels])
            lines.append(
                (f"{row.sort}: AP50 {row.baseline:.0f} → {row.distilled:.0f}", image, truth, detected)
            )
        return compare_detections(lines)

    def errors(self) -> pd.DataFrame:
        """The TIDE errors of both at IoU 0.50, a line each, as ``figures.error_bars`` draws them."""
        return pd.concat(
            tide.tide(self.split.annotations, results, [50])
            .reset_index()
            .assign(student=self.student, method=method, seed=self.baseline.seed)
            for method, results in self.results.items()
        )


@contextlib.contextmanager
def _train_here() -> Iterator[None]:
    """What is not published says how to train it."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. {TRAIN_HERE}") from error


def session(device: str = "") -> str:
    """Commit, device and versions of this session, in a line of Markdown."""
    now = circumstances()
    changed = " with local changes" if now["dirty"] else ""
    versions = ", ".join(f"{name} {number}" for name, number in now["versions"].items())
    return f"Commit `{now['commit'][:10]}`{changed}{f', device {device}' if device else ''}; {versions}."


def bullets(sentences: list[str]) -> Markdown:
    """A list of sentences."""
    return Markdown("\n".join(f"- {sentence}" for sentence in sentences))
