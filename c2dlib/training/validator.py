"""Metrics on val during training: the curve, the best weights so far, and when to stop."""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from c2dlib import distributed
from c2dlib.config.experiment import Experiment
from c2dlib.config.weights import WeightsError
from c2dlib.data.coco import CocoFolder
from c2dlib.evaluation.metrics import coco_metrics, detect
from c2dlib.files import json_with_hash, parse_json, read_json_with_hash, write_whole
from c2dlib.training.checkpoints import last_step, student_file, student_hash

HISTORY = "validation.json"
BEST = "best-{:08d}.safetensors"
STARTED = {"identity", "data_hash", "files_hash"}  # the entries of a run's started.json


class Validator:
    """Evaluates a student on val while it is trained; called after every step.

    With ``keep_best_every`` it keeps the weights of the highest mAP, and tells when ``patience`` evaluations
    in a row were not better. An evaluation that was made before an interruption is not repeated, if the run
    goes on from a checkpoint.

    Attributes:
        history: step -> metrics in percent, see ``coco_metrics``.
    """

    def __init__(self, e: Experiment, data: CocoFolder, folder: Path, device: str, steps: int):
        self.e, self.folder, self.device, self.steps = e, folder, device, steps
        self.split, self.area_cuts = data.splits["val"], data.area_cuts
        self.history: dict[int, dict] = distributed.agreed(read_history(folder))

    def __call__(self, model: nn.Module, done: int) -> bool:
        """Evaluate, if it is time after ``done`` steps.

        Returns:
            Whether training ends here.
        """
        if not self._due(done):
            return False
        if done not in self.history:
            self._evaluate(model, done)
        until_now = sorted(step for step in self.history if step <= done)
        return 0 < self.e.patience <= len(until_now) - 1 - until_now.index(self.best(until_now))

    def _due(self, done: int) -> bool:
        if self.e.keep_best_every:
            return done % self.e.keep_best_every == 0 or done == self.steps
        return bool(self.e.validate_every) and done % self.e.validate_every == 0 and done < self.steps

    def _evaluate(self, model: nn.Module, done: int) -> None:
        """Keep the metrics, and the weights if they are the best; those are written first."""
        metrics = coco_metrics(self.split.annotations, detect(model, self.split, self.device), self.area_cuts)
        model.train()
        self.history[done] = metrics
        if not distributed.first():
            return
        kept = self.folder / BEST.format(done)
        if self.e.keep_best_every and self.best() == done:
            state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
            write_whole(kept, student_file(state, {"step": done}))
        entries = {str(step): self.history[step] for step in sorted(self.history)}
        write_whole(self.folder / HISTORY, json_with_hash(entries))
        if kept.exists():
            for path in self.folder.glob("best-*.safetensors"):
                if path != kept:
                    path.unlink(missing_ok=True)

    def best(self, steps: list[int] | None = None) -> int:
        """The step of highest mAP on val, the first of equal ones; of all evaluations or of some."""
        return best_step(self.history, steps)

    def best_weights(self) -> dict[str, Tensor]:
        """The weights of the best evaluation, on the CPU.

        Raises:
            WeightsError: if their file is missing or damaged.
        """
        path = self.folder / BEST.format(self.best())
        try:
            content = path.read_bytes()
            student_hash(content)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{path}: the best weights are damaged ({error}). Delete {self.folder} to train again."
            ) from error
        return load_safetensors(content)

    def text(self) -> str:
        """The last evaluation and the best, for a progress line; empty before the first."""
        if not self.history:
            return ""
        last, best = max(self.history), self.best()
        return (
            f", val mAP {_map(self.history[last]):.1f} at step {last}"
            f"{'' if last == best else f', best {_map(self.history[best]):.1f} at {best}'}"
        )


def best_step(history: dict[int, dict], steps: list[int] | None = None) -> int:
    """The step of highest mAP, the first of equal ones; of a whole history or of some of its steps."""
    return min(history if steps is None else steps, key=lambda step: (-_map(history[step]), step))


def _map(metrics: dict) -> float:
    """mAP; 0 where val has no object."""
    return metrics["mAP"] or 0.0


def history_problem(folder: Path, keep_best_every: int) -> str:
    """What is damaged of the evaluations that an unfinished run made before its checkpoint, and of the best
    weights; empty: nothing."""
    history = read_history(folder)
    due = range(keep_best_every, last_step(folder) + 1, keep_best_every)
    if missing := [step for step in due if step not in history]:
        return f"{folder / HISTORY}: the evaluation at step {missing[0]} is missing"
    if not history:
        return ""
    best = folder / BEST.format(best_step(history))
    try:
        student_hash(best.read_bytes())
    except (OSError, ValueError) as error:
        return f"{best}: the best weights are damaged ({error})"
    return ""


def read_history(folder: Path) -> dict[int, dict]:
    """Step -> metrics on val, of the evaluations of a run that is not recorded yet.

    A damaged file is named on stderr, not used.
    """
    path = folder / HISTORY
    if (history := read_working_file(path) if path.exists() else None) is None:
        return {}
    if not all(
        k.isdecimal() and isinstance(v, dict) and isinstance(v.get("mAP", ""), float | int | None)
        for k, v in history.items()
    ):
        print(f"{path}: not the evaluations of a run, not used", file=sys.stderr)
        return {}
    return {int(step): metrics for step, metrics in history.items()}


def read_working_file(path: Path) -> dict | None:
    """The JSON object in a working file of a run; a damaged one is named on stderr, not used."""
    try:
        text = path.read_bytes().decode()
        body = parse_json(text)
        if isinstance(body, dict) and (
            set(body) == STARTED or (path.name == HISTORY and body and all(key.isdigit() for key in body))
        ):
            return body  # of an earlier version, without a hash
        return read_json_with_hash(text)
    except (OSError, ValueError) as error:
        print(f"{path}: damaged ({error}), not used", file=sys.stderr)
        return None
