"""``train``: a student on data of one's own, from a folder to a checkpoint and the next command."""

from __future__ import annotations

import shlex
from html import unescape

from c2dlib import figures
from c2dlib.config.experiment import Experiment, known, preset_names
from c2dlib.config.methods import canonical
from c2dlib.deployment.student import load_student
from c2dlib.records import RunRecord, interpreter
from c2dlib.reporting.own_data import Pair, caveats, result
from c2dlib.training.finished import finished, run_folder, sweep_leftovers
from c2dlib.training.run import experiment_for, run
from c2dlib.training.schedule import run_all
from c2dlib.workspace import ProgressBar, Workspace, open_workspace


def train(
    data: str,
    preset: str,
    student: str,
    method: str,
    compare: bool,
    seeds: int,
    jobs: int,
    device: str,
    overrides: dict,
) -> bool:
    """Train a student by a method, print its result and where it lies.

    Its record and its checkpoint lie in ``results/<data>-<preset>/`` and ``runs/<data>-<preset>/``; no table
    of a scale reads them.

    Args:
        data: see ``data.layouts``; empty: the embedded Badges.
        compare: the same student is trained without the method too.
        jobs: runs at once, where there are several; 0: one per core, or one per GPU.
        overrides: settings of Experiment to change.

    Returns:
        Whether all runs are done.

    Raises:
        DataError, WeightsError, ValueError: before anything is trained.
    """
    known(preset, preset_names(), "preset")
    if seeds < 1:
        raise ValueError(f"--seeds {seeds} must be at least 1")
    methods = dict.fromkeys((["baseline"] if compare else []) + [canonical(method)])
    if compare and len(methods) == 1:
        raise ValueError("--compare: the baseline itself is no method to compare with it")
    workspace, folder = open_workspace(preset, data, device=device)
    pairs: list[Pair] = [
        {m: experiment_for(workspace, folder, student, m, seed, **overrides) for m in methods}
        for seed in range(seeds)
    ]
    print(folder.report.summary())
    print("".join(f"note: {warning}\n" for warning in folder.report.warnings), end="")
    experiments = [e for pair in pairs for e in pair.values()]
    records = _run(experiments, workspace, jobs)
    print(f"\n{result(pairs, records).to_string(index=False)}\n")
    for sentence in caveats(pairs, records, folder.image_counts):
        print(f"- {unescape(sentence.replace('**', '').replace('`', ''))}")
    done = [e for e in experiments if finished(e, workspace)]
    for e in done:
        print(_kept(e, records[e.hash()]))
    if done:
        print(_places(done, [records[e.hash()] for e in done], workspace, data))
    return len(done) == len(experiments)


def _run(experiments: list[Experiment], workspace: Workspace, jobs: int) -> dict[str, RunRecord]:
    """Run experiments: one alone with all cores, several beside each other with a core each."""
    if len(experiments) > 1:
        records = run_all(experiments, workspace, jobs, with_weights=True)
        return {e.hash(): r for e, r in zip(experiments, records, strict=True) if r}
    sweep_leftovers(workspace)
    (e,) = experiments
    return {e.hash(): run(e, workspace, ProgressBar(), with_weights=True)}


def _kept(e: Experiment, record: RunRecord) -> str:
    """Which weights of a run were kept, and why training ended."""
    if not record.validation:
        return f"{e.name}: the weights after the last step"
    values = {int(step): metrics["mAP"] or 0.0 for step, metrics in record.validation.items()}
    best, last, planned = max(values, key=lambda step: (values[step], -step)), max(values), e.steps
    curve = ", ".join(f"{step}: {values[step]:.1f}" for step in sorted(values))
    ended = (
        f"; stopped after {last} of {planned} steps, {e.patience} evaluation(s) in a row without a higher mAP"
    )
    return (
        f"{e.name}: mAP on val by step {curve}\n"
        f"  kept: step {best}{ended if planned and last < planned else ''}"
    )


def _places(done: list[Experiment], records: list[RunRecord], workspace: Workspace, data: str) -> str:
    """The checkpoint, its threshold, the picture of the curves, and the commands that go on from here."""
    chosen = max(done, key=lambda e: (e.method != "baseline", -e.seed))
    folder = run_folder(chosen, workspace)
    threshold = load_student(folder).threshold
    lines = [f"\ncheckpoint: {folder / 'student.safetensors'}"]
    if threshold:
        lines.append(
            f"threshold:  {threshold.score:.2f} ({threshold.rule}, on {threshold.split}: F1 "
            f"{threshold.f1:.0f} %, precision {threshold.precision:.0f} %, recall {threshold.recall:.0f} %)"
        )
    if any(record.validation for record in records):
        curve = folder / "curve.png"
        figures.save(figures.validation_curves([r for r in records if r.validation]), curve)
        lines.append(f"curve:      {curve}")
    place, data_option = shlex.quote(str(folder)), f" --data {shlex.quote(data)}" if data else ""
    program = f"{interpreter()} -m c2dlib"
    images = (workspace.data / f"{chosen.eval_split}2017").resolve()  # not the link that data.layouts makes
    return "\n".join(
        [
            *lines,
            "next:",
            f"  {program} evaluate {place}{data_option}",
            f"  {program} detect {place} {shlex.quote(str(images))}",
            f"  {program} export {place} student.onnx",
        ]
    )
