"""A table, figure or notebook from end to end: train missing runs, write results, execute the notebook."""

from __future__ import annotations

import textwrap
from pathlib import Path

from c2dlib.config.experiment import check_scale, experiment, known
from c2dlib.data.coco import CocoFolder
from c2dlib.records import ROOT
from c2dlib.reporting import console, notebooks, tables, work_list
from c2dlib.reporting.notes import notes
from c2dlib.reporting.published import agreement, is_published
from c2dlib.training import schedule
from c2dlib.training.run import finished
from c2dlib.workspace import Workspace, open_workspace


def open_table(
    table: str,
    scale: str,
    data: str,
    seeds: int,
    students: tuple[str, ...],
    methods: tuple[str, ...],
    overrides: dict,
    device: str = "auto",
    results: Path = Path("results"),
) -> tuple[Workspace, CocoFolder, list[work_list.Row]]:
    """The workspace, the data and the wanted rows of a table.

    Args:
        data: a COCO-format folder; empty: the embedded Badges.
        seeds: runs per row, with the seeds 0, 1, ...
        students, methods: only these; empty: all.
        overrides: settings of Experiment to change in every row.
        results: the parent of this machine's results; ``PUBLISHED``: of the published ones.

    Raises:
        ValueError: for an unknown name or setting, before anything is written.
        DataError: with everything that is wrong with the data folder.
    """
    known(table, work_list.TABLES, "table")
    check_scale(scale)
    work_list.plan_rows(
        table, scale, seeds, list(students), list(methods), overrides, Path(data).name if data else "badges"
    )
    workspace, folder = open_workspace(scale, data, results, device=device)
    return (
        workspace,
        folder,
        work_list.work_list(table, workspace, folder, seeds, list(students), list(methods), overrides, True),
    )


def print_table(
    table: str, workspace: Workspace, folder: CocoFolder, rows: list[work_list.Row], also: str = ""
) -> None:
    """Write a table from the records there are and print it with its notes and its agreement.

    Args:
        also: a file that was written besides.
    """
    frame = tables.write_table(table, rows, workspace, folder)
    done, path = int((frame.seeds > 0).sum()), workspace.results / table
    shown = console.published_table if is_published(workspace) else console.text_table
    print(f"{work_list.TABLES[table].title}\n\n{shown(frame.to_dict('records'))}\n")
    for note in notes(workspace, folder, tables.collect(rows, workspace)):
        print(textwrap.fill(f"- {note.replace('**', '')}", console.WIDTH, subsequent_indent="  "))
    print(f"\n{done} of {len(frame)} rows have a finished run.\nWritten: {path}.csv, .md{also}")
    if sentence := agreement(frame):
        print(textwrap.fill(sentence, console.WIDTH))


def reproduce(
    name: str,
    scale: str,
    data: str = "",
    seeds: int = 1,
    jobs: int = 0,
    device: str = "auto",
    students: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    overrides: dict | None = None,
) -> bool:
    """Train what a table, figure or notebook needs, execute its notebook, print what it wrote.

    Args:
        name: a key of ``work_list.TABLES`` or ``notebooks.PIECES``.
        jobs: runs at the same time; 0: one per core, or one per GPU.
        data, seeds, students, methods, overrides: see ``open_table``.

    Returns:
        Whether every run is finished.

    Raises:
        ValueError, DataError: see ``open_table``; also for an option that the notebook has no parameter for.
    """
    known(name, [*work_list.TABLES, *notebooks.PIECES], "table, figure or notebook")
    if name in notebooks.PIECES:
        return _reproduce_notebook(name, scale, data, seeds, jobs, device, students, methods, overrides or {})
    return _reproduce_table(name, scale, data, seeds, jobs, device, students, methods, overrides or {})


def _reproduce_table(
    table: str,
    scale: str,
    data: str,
    seeds: int,
    jobs: int,
    device: str,
    students: tuple[str, ...],
    methods: tuple[str, ...],
    overrides: dict,
) -> bool:
    if not (notebooks.FOLDER / f"{table}.ipynb").exists():
        raise ValueError(
            f"{table} has no notebook: copy notebooks/schedules.ipynb to notebooks/{table}.ipynb and change "
            "the table's name in it"
        )
    workspace, folder, rows = open_table(table, scale, data, seeds, students, methods, overrides, device)
    _print_header(work_list.TABLES[table].title, workspace, folder)
    for warning in folder.report.warnings:
        print(f"note: {warning}", flush=True)
    experiments = work_list.experiments(rows)
    printer = tables.Printer(rows, tables.collect(rows, workspace))
    schedule.run_all(experiments, workspace, jobs, printer)
    tables.write_table(table, rows, workspace, folder)
    parameters = {"seeds": seeds, "students": list(students), "methods": list(methods)}
    executed = notebooks.execute(
        table, workspace, parameters | _common_parameters(workspace, data, jobs, device, overrides)
    )
    print()
    print_table(table, workspace, folder, rows, f" and {executed}")
    return all(finished(e, workspace) for e in experiments)


def _reproduce_notebook(
    name: str,
    scale: str,
    data: str,
    seeds: int,
    jobs: int,
    device: str,
    students: tuple[str, ...],
    methods: tuple[str, ...],
    overrides: dict,
) -> bool:
    notebook = notebooks.PIECES[name]
    check_scale(scale)
    accepted = notebooks.parameters(notebook)
    parameters = _notebook_parameters(name, accepted, seeds, students, methods)
    if "published" in accepted:
        parameters["published"] = False
    if overrides and "overrides" not in accepted:
        raise ValueError(f"{name} has no SET: its notebook takes {', '.join(accepted)}")
    if name == "figure3":
        work_list.plan_rows("table1", scale, seeds, list(students), list(methods), overrides)
    else:
        experiment(
            scale,
            parameters.get("student", work_list.ABLATED),
            parameters.get("method", "baseline"),
            **overrides,
        )
    workspace, folder = open_workspace(scale, data, device=device)
    _print_header(notebook, workspace, folder)
    common = _common_parameters(workspace, data, jobs, device, overrides)
    executed = notebooks.execute(
        notebook, workspace, parameters | {key: value for key, value in common.items() if key in accepted}
    )
    if (text := workspace.results / f"{name}.md").exists():
        print("\n" + text.read_text(encoding="utf-8"))
    print(f"written: {executed}")
    return True


def _notebook_parameters(
    name: str, accepted: list[str], seeds: int, students: tuple[str, ...], methods: tuple[str, ...]
) -> dict:
    """The options as parameters of a notebook, which takes ``students`` or one ``student``, likewise methods.

    Raises:
        ValueError: for an option that the notebook has no parameter for.
    """
    parameters = {}
    for parameter, value in (
        ("seeds", seeds if seeds > 1 else None),
        ("students", list(students)),
        ("methods", list(methods)),
    ):
        singular = parameter.removesuffix("s")
        if not value:
            continue
        if parameter in accepted:
            parameters[parameter] = value
        elif singular in accepted and isinstance(value, list) and len(value) == 1:
            parameters[singular] = value[0]
        else:
            raise ValueError(f"{name} has no {parameter.upper()}: its notebook takes {', '.join(accepted)}")
    return parameters


def _common_parameters(workspace: Workspace, data: str, jobs: int, device: str, overrides: dict) -> dict:
    """The parameters that every table's notebook has; folders only if they are not the repository's own."""
    folders = (
        {}
        if Path.cwd() == ROOT
        else {"results": str(workspace.results.parent.resolve()), "runs": str(workspace.runs.resolve())}
    )
    return {
        "scale": workspace.scale,
        "data": data,
        "overrides": overrides,
        "device": device,
        "jobs": jobs,
        **folders,
    }


def _print_header(title: str, workspace: Workspace, folder: CocoFolder) -> None:
    print(
        f"{title}\n{folder.report.summary()}\nresults: {workspace.results}/   runs: {workspace.runs}/",
        flush=True,
    )
