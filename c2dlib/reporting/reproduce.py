"""A table, figure or notebook from end to end: train missing runs, write results, execute the notebook."""

from __future__ import annotations

import textwrap
from html import unescape
from pathlib import Path

import pandas as pd

from c2dlib.config.experiment import check_scale, experiment, known, scale_tables
from c2dlib.data.coco import CocoFolder
from c2dlib.records import ROOT
from c2dlib.reporting import console, notebooks, tables, work_list
from c2dlib.reporting.notes import notes, whose_numbers
from c2dlib.reporting.published import agreement, is_published
from c2dlib.reporting.request import Request
from c2dlib.training import schedule
from c2dlib.training.finished import finished
from c2dlib.workspace import Workspace, open_workspace


def open_table(request: Request) -> tuple[Workspace, CocoFolder, list[work_list.Row]]:
    """The workspace, the data and the wanted rows of a table.

    Raises:
        ValueError: for an unknown name or setting, before anything is written.
        DataError: with everything that is wrong with the data folder.
    """
    known(request.name, work_list.TABLES, "table")
    check_scale(request.scale)
    request.plans(request.name)
    workspace, folder = open_workspace(request.scale, request.data, request.results, device=request.device)
    rows = work_list.work_list(
        request.name,
        workspace,
        folder,
        request.seeds,
        list(request.students),
        list(request.methods),
        request.overrides,
        with_recorded=True,
    )
    return workspace, folder, rows


def write_and_print_table(request: Request) -> None:
    """Write a table from the records there are, and print it."""
    workspace, folder, rows = open_table(request)
    frame = tables.write_table(request.name, rows, workspace, folder)
    _print_table(request.name, frame, rows, workspace, folder)


def _print_table(
    table: str,
    frame: pd.DataFrame,
    rows: list[work_list.Row],
    workspace: Workspace,
    folder: CocoFolder,
    also: str = "",
) -> None:
    """Print a table with its notes and its agreement.

    Args:
        frame: the table as it was written.
        also: a file that was written besides.
    """
    done, path = int((frame.seeds > 0).sum()), workspace.results / table
    shown = console.published_table if is_published(workspace) else console.text_table
    print(f"{work_list.TABLES[table].title}\n\n{shown(frame.to_dict('records'))}\n")
    records = tables.collect(rows, workspace)
    for note in [*whose_numbers(table, workspace, rows), *notes(workspace, folder, records, rows)]:
        text = unescape(note.replace("**", ""))
        print(textwrap.fill(f"- {text}", console.WIDTH, subsequent_indent="  "))
    print(f"\n{done} of {len(frame)} rows have a finished run.\nWritten: {path}.csv, .md{also}")
    if sentence := agreement(frame, scale_tables(workspace.scale).get("draws", 1)):
        print(textwrap.fill(sentence, console.WIDTH))


def reproduce(request: Request) -> bool:
    """Train what a table, figure or notebook needs, execute its notebook, print what it wrote.

    Returns:
        Whether every run is finished.

    Raises:
        ValueError, DataError: see ``open_table``; also for an option that the notebook has no parameter for.
    """
    known(request.name, [*work_list.TABLES, *notebooks.PIECES], "table, figure or notebook")
    return _reproduce_notebook(request) if request.name in notebooks.PIECES else _reproduce_table(request)


def _reproduce_table(request: Request) -> bool:
    table = request.name
    if not (notebooks.FOLDER / f"{table}.ipynb").exists():
        raise ValueError(
            f"{table} has no notebook: copy notebooks/schedules.ipynb to notebooks/{table}.ipynb and change "
            "the table's name in it"
        )
    workspace, folder, rows = open_table(request)
    _print_header(work_list.TABLES[table].title, workspace, folder)
    for warning in folder.report.warnings:
        print(f"note: {warning}", flush=True)
    experiments = work_list.experiments(rows)
    printer = tables.Printer(rows, tables.collect(rows, workspace))
    schedule.run_all(experiments, workspace, request.jobs, printer)
    frame = tables.write_table(table, rows, workspace, folder)  # there even if the notebook fails
    choice = {
        "seeds": request.seeds,
        "students": list(request.students),
        "methods": list(request.methods),
        "published": False,
    }
    executed = notebooks.execute(table, workspace, choice | _common_parameters(workspace, request))
    print()
    _print_table(table, frame, rows, workspace, folder, f" and {executed}")
    return all(finished(e, workspace) for e in experiments)


def _reproduce_notebook(request: Request) -> bool:
    notebook = notebooks.PIECES[request.name]
    check_scale(request.scale, presets=request.name == "your_data")
    accepted = notebooks.parameters(notebook)
    parameters = _notebook_parameters(request, accepted)
    if "published" in accepted:
        parameters["published"] = False
    if request.overrides and "overrides" not in accepted:
        raise ValueError(f"{request.name} has no SET: its notebook takes {', '.join(accepted)}")
    if request.name == "figure3":
        request.plans("table1")
    else:
        experiment(
            request.scale,
            parameters.get("student", work_list.ablated(request.scale)),
            parameters.get("method", "baseline"),
            **request.overrides,
        )
    workspace, folder = open_workspace(request.scale, request.data, device=request.device)
    _print_header(notebook, workspace, folder)
    common = _common_parameters(workspace, request)
    executed = notebooks.execute(
        notebook, workspace, parameters | {key: value for key, value in common.items() if key in accepted}
    )
    if (text := workspace.results / f"{request.name}.md").exists():
        print("\n" + text.read_text(encoding="utf-8"))
    print(f"written: {executed}")
    return True


def _notebook_parameters(request: Request, accepted: list[str]) -> dict:
    """The options as parameters of a notebook, which takes ``students`` or one ``student``, likewise methods.

    One that takes a student gets the scale's where none is named.

    Raises:
        ValueError: for an option that the notebook has no parameter for.
    """
    parameters = {"student": work_list.ablated(request.scale)} if "student" in accepted else {}
    for parameter, value in (
        ("seeds", request.seeds if request.seeds > 1 else None),
        ("students", list(request.students)),
        ("methods", list(request.methods)),
    ):
        singular = parameter.removesuffix("s")
        if not value:
            continue
        if parameter in accepted:
            parameters[parameter] = value
        elif singular in accepted and isinstance(value, list) and len(value) == 1:
            parameters[singular] = value[0]
        else:
            raise ValueError(
                f"{request.name} has no {parameter.upper()}: its notebook takes {', '.join(accepted)}"
            )
    return parameters


def _common_parameters(workspace: Workspace, request: Request) -> dict:
    """The parameters that every table's notebook has; folders only if they are not the repository's own."""
    folders = (
        {}
        if Path.cwd() == ROOT
        else {"results": str(workspace.results.parent.resolve()), "runs": str(workspace.runs.resolve())}
    )
    return {
        "scale": workspace.scale,
        "data": request.data,
        "overrides": request.overrides,
        "device": request.device,
        "jobs": request.jobs,
        **folders,
    }


def _print_header(title: str, workspace: Workspace, folder: CocoFolder) -> None:
    print(
        f"{title}\n{folder.report.summary()}\nresults: {workspace.results}/   runs: {workspace.runs}/",
        flush=True,
    )
