"""What a command asks of a table, figure or notebook; no torch, no pandas."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from c2dlib.records import PUBLISHED, results_name
from c2dlib.reporting.work_list import RowPlan, plan_rows


@dataclass(frozen=True)
class Request:
    """A table, figure or notebook at a scale on some data, or a part of its rows.

    Args:
        name: a key of ``work_list.TABLES`` or ``notebooks.PIECES``.
        data: the data as they are typed, see ``workspace.open_workspace``; empty: the embedded Badges.
        seeds: runs per row, with the seeds 0, 1, ...
        jobs: runs at the same time; 0: one per core, or one per GPU.
        students, methods: only these; empty: all.
        overrides: settings of Experiment to change in every row.
        published: the published results, not those of this machine.
    """

    name: str
    scale: str = "mini"
    data: str = ""
    seeds: int = 1
    jobs: int = 0
    device: str = "auto"
    students: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    overrides: dict = field(default_factory=dict)
    published: bool = False

    @property
    def results(self) -> Path:
        """The parent of the results."""
        return PUBLISHED if self.published else Path("results")

    @property
    def place(self) -> str:
        """The name of the folder of results."""
        return results_name(self.scale, self.data)

    @property
    def data_name(self) -> str:
        """The name of the data in records."""
        return self.place.removesuffix(f"-{self.scale}")

    def plans(self, table: str) -> list[RowPlan]:
        """The rows that are asked of a table; errors as of ``work_list.plan_rows``."""
        students, methods = list(self.students), list(self.methods)
        return plan_rows(table, self.scale, self.seeds, students, methods, self.overrides, self.data_name)
