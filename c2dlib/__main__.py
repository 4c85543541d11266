"""``python -m c2dlib``: what the Makefile calls."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from c2dlib.cli import add_parsers
from c2dlib.config.experiment import SCALES, known, parse_override
from c2dlib.config.weights import WeightsError
from c2dlib.data.validation import DataError
from c2dlib.records import RecordError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors a person can mend are printed without a traceback, with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m c2dlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    reproduce = commands.add_parser("reproduce", help="train what a table needs, print the paper's numbers beside the reproduced ones")
    reproduce.add_argument("table", nargs="?", default="table2", help="table1 to table5, table2x, controls, sizes, schedules, choices, figure3, figure4, method, teacher, your_data or scale")
    reproduce.add_argument("--scale", default="mini", help=", ".join(sorted(p.stem for p in SCALES.glob("*.yaml"))))
    reproduce.add_argument("--data", default="", help="a COCO-format folder; empty: the embedded Badges")
    reproduce.add_argument("--seeds", type=int, default=1, help="runs per row")
    reproduce.add_argument("--jobs", type=int, default=0, help="runs at once; 0: one per core, or one on a GPU")
    reproduce.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    reproduce.add_argument("--students", nargs="*", default=[], help="only these")
    reproduce.add_argument("--methods", nargs="*", default=[], help="only these")
    reproduce.add_argument("--set", nargs="*", default=[], metavar="setting=value", help="change an Experiment's field")
    bench = commands.add_parser("bench", help="cost of the losses and of our step, against a plain step")
    bench.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    bench.add_argument("--repeats", type=int, default=3)
    bench.add_argument("--what", default="ratios", choices=["ratios", "counts", "throughput", "agreement"],
                       help="ratios of SSD300's step; arithmetic and memory of every student's at the paper's scale; images/s there; "
                            "20 steps on this device against the CPU's")
    bench.add_argument("--students", nargs="*", default=[], help="only these (counts, throughput)")
    for name, text in (("claims", "each claim of the paper, judged by the records there are"),
                       ("html", "the executed notebooks as pages that a browser opens")):
        of = commands.add_parser(name, help=text)
        of.add_argument("--scale", default="mini")
        of.add_argument("--data", default="")
    commands.add_parser("readme", help="write the README's tables from results/")
    add_parsers(commands)
    options = parser.parse_args(arguments)
    try:
        if "call" in options:
            return options.call(options)
        if options.command == "bench":
            from c2dlib.cluster import bench as benches

            if options.what == "ratios":
                return benches.bench(options.device, options.repeats)
            if options.what == "agreement":
                return benches.agreement(options.device)
            return getattr(benches, options.what)(options.device, options.students, options.repeats)
        if options.command in ("claims", "html"):
            return _look_back(options)
        if options.command == "readme":
            from c2dlib.reporting.readme import update_readme

            update_readme()
            return 0
        return reproduce_table(options)
    except (DataError, RecordError, WeightsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _look_back(options) -> int:
    """``claims`` and ``html``: nothing is trained, only what there is is read."""
    from c2dlib.workspace import open_workspace

    known(options.scale, [p.stem for p in SCALES.glob("*.yaml")], "SCALE")
    workspace, folder = open_workspace(options.scale, options.data)
    if options.command == "claims":
        from c2dlib.reporting.claims import write_claims

        print(write_claims(workspace, folder))
    else:
        from c2dlib.reporting.notebooks import html

        print(f"written: {html(workspace)}")
    return 0


def reproduce_table(options) -> int:
    """Train the missing runs, print each row as it is done, execute the notebook, print the table."""
    from c2dlib.reporting import notebooks, tables, work_list
    from c2dlib.training.schedule import run_all
    from c2dlib.workspace import open_workspace

    known(options.table, [*work_list.TABLES, *notebooks.PIECES], "table, figure or notebook")
    if options.table in notebooks.PIECES:
        return reproduce_piece(options)
    overrides = dict(map(parse_override, options.set))
    known(options.scale, [p.stem for p in SCALES.glob("*.yaml")], "SCALE")
    work_list.plan_rows(options.table, options.scale, options.seeds, options.students, options.methods, overrides,
                 Path(options.data).name if options.data else "badges")
    workspace, folder = open_workspace(options.scale, options.data, device=options.device)
    print(f"{work_list.TABLES[options.table].title}\n{folder.report.summary()}\nresults: {workspace.results}/   runs: {workspace.runs}/",
          flush=True)
    for warning in folder.report.warnings:
        print(f"note: {warning}", flush=True)
    rows = work_list.work_list(options.table, workspace, folder, options.seeds, options.students, options.methods, overrides)
    printer = tables.Printer(rows)
    run_all(work_list.experiments(rows), workspace, options.jobs, printer)
    frame = tables.write_table(options.table, rows, workspace, folder)
    executed = notebooks.execute(options.table, workspace, {
        "seeds": options.seeds, "students": options.students, "methods": options.methods,
        **_common(options, overrides, workspace)})
    print("\n" + (workspace.results / f"{options.table}.md").read_text())
    print(f"written: {workspace.results / options.table}.csv, .md and {executed}")
    return int(any(row.experiments and status != "done" for row, status in zip(rows, frame.status, strict=True)))


def _common(options, overrides: dict, workspace) -> dict:
    """The parameters every notebook has; places are told only where they are not the repository's own."""
    from c2dlib.records import ROOT

    places = {} if Path.cwd() == ROOT else {"results": str(workspace.results.parent.resolve()),
                                            "runs": str(workspace.runs.resolve())}
    return {"scale": options.scale, "data": options.data, "overrides": overrides, "device": options.device,
            "jobs": options.jobs, **places}


def reproduce_piece(options) -> int:
    """Execute a notebook that is no table and print what it wrote.

    Raises:
        ValueError: for an option its notebook has no use for, or what is misspelt, before anything is written.
    """
    from c2dlib.config.experiment import experiment
    from c2dlib.reporting import notebooks, work_list
    from c2dlib.workspace import open_workspace

    name, overrides = notebooks.PIECES[options.table], dict(map(parse_override, options.set))
    known(options.scale, [p.stem for p in SCALES.glob("*.yaml")], "SCALE")
    inside, given = notebooks.parameters(name), {}
    for option, parameter, value in (("SEEDS", "seeds", options.seeds if options.seeds > 1 else None),
                                     ("STUDENTS", "students", options.students), ("METHODS", "methods", options.methods)):
        if value and parameter not in inside:
            one = parameter.removesuffix("s")
            if one not in inside or not isinstance(value, list) or len(value) > 1:
                raise ValueError(f"{options.table} has no {option}: its notebook takes {', '.join(inside)}")
            given[one] = value[0]
        elif value:
            given[parameter] = value
    if overrides and "overrides" not in inside:
        raise ValueError(f"{options.table} has no SET: its notebook takes {', '.join(inside)}")
    if options.table == "figure3":
        work_list.plan_rows("table1", options.scale, options.seeds, options.students, options.methods, overrides)
    else:
        experiment(options.scale, given.get("student", work_list.ABLATED), given.get("method", "baseline"), **overrides)
    workspace, folder = open_workspace(options.scale, options.data, device=options.device)
    print(f"{name}\n{folder.report.summary()}\nresults: {workspace.results}/   runs: {workspace.runs}/", flush=True)
    given |= {name: value for name, value in _common(options, overrides, workspace).items() if name in inside}
    executed = notebooks.execute(name, workspace, given)
    if (text := workspace.results / f"{options.table}.md").exists():
        print("\n" + text.read_text())
    print(f"written: {executed}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    sys.exit(main())
