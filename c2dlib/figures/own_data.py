"""What the notebook ``your_data`` shows: a student with and without a method on data of one's own."""

from __future__ import annotations

import shlex
import sys
from functools import cached_property
from pathlib import Path

from IPython.display import Markdown
from torch import nn

from c2dlib.figures.evaluation import validation_curves
from c2dlib.figures.pages import PairPage, bullets
from c2dlib.figures.style import Picture
from c2dlib.records import ROOT, interpreter
from c2dlib.reporting.labels import method_label
from c2dlib.reporting.markdown import markdown_table
from c2dlib.reporting.own_data import caveats, gain_text, result
from c2dlib.training.finished import run_folder, trained_student
from c2dlib.training.schedule import run_all


class OwnDataPage(PairPage):
    """As ``PairPage``; its result has no number of the paper, whose classes and images are others."""

    def train(self) -> Markdown:
        """Train the missing runs, with a line of progress.

        Returns:
            A table: baseline, distilled student, gain and cost.
        """
        experiments = [e for pair in self.pairs for e in pair.values()]
        records = run_all(experiments, self.workspace, self.jobs, with_weights=True)
        self.records = {e.hash(): r for e, r in zip(experiments, records, strict=True) if r}
        frame = result(self.pairs, self.records)
        return Markdown(markdown_table(list(frame), frame.to_numpy().tolist(), text_columns=(0,)))

    def caveats(self) -> Markdown:
        """What to know before believing the numbers."""
        return bullets(caveats(self.pairs, self.records, self.folder.image_counts))

    def curves(self) -> Picture | Markdown:
        """mAP on val along training, where the settings ask for it."""
        validated = [record for record in self.records.values() if record.validation]
        if validated:
            return validation_curves(validated)
        return Markdown(
            "No metrics were computed during training: the presets `quick`, `laptop` and `good` ask for "
            'them, or `overrides = {"keep_best_every": 100}`.'
        )

    def verdict(self) -> Markdown:
        """The change in mAP, and whether more seeds are needed."""
        seeds = len(self.pairs)
        return Markdown(
            f"{method_label(self.distilled.method)} changes mAP by **{gain_text(self.pairs, self.records)}** "
            f"points over {seeds} seed{'s' if seeds > 1 else ''}"
            + (", with its 95 % interval." if seeds > 1 else ": that may be chance.")
        )

    @cached_property
    def detector(self) -> nn.Module:
        """The distilled student of the first seed: a plain torchvision detector."""
        return trained_student(self.distilled, self.workspace)

    @property
    def onnx(self) -> Path:
        """Where the distilled student is exported to."""
        return run_folder(self.distilled, self.workspace) / "student.onnx"

    def places(self) -> Markdown:
        """Where the checkpoint, its record and the ONNX file lie, and the commands that use them.

        All as from the repository's folder.
        """
        folder = run_folder(self.distilled, self.workspace)
        record = self.workspace.results / "records" / f"{self.records[self.distilled.hash()].name}.json"
        place = shlex.quote(str(_short(folder)))
        inside = Path(sys.executable).is_relative_to(ROOT)  # no folder of this machine is shown to others
        program = f"{interpreter(ROOT) if inside else 'python'} -m c2dlib"
        return Markdown(
            f"- checkpoint: `{_short(folder / 'student.safetensors')}`\n- ONNX: `{_short(self.onnx)}`\n"
            f"- record: `{_short(record)}`\n\n"
            "```sh\n"
            f"{program} detect {place} photo.jpg\n"
            f"{program} evaluate {place} --data FOLDER\n"
            f"{program} runs\n```"
        )


def _short(path: Path) -> Path:
    """A path from the folder ``runs/`` or ``results/`` on: executed notebooks are shown to others."""
    parts = path.parts
    starts = [i for i, part in enumerate(parts) if part in ("runs", "results")]
    return Path(*parts[starts[-1] :]) if starts else path
