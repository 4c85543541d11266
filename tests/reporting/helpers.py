"""What the tests of this folder share: records without training, and Markdown read back."""

import dataclasses

from c2dlib.records import RunRecord
from c2dlib.reporting.work_list import METRICS

SSD = "SSD300-VGG16"


def record(e, mAP=10.0, status="done", reason="", **changes) -> RunRecord:
    """A record of an experiment that nobody ran: every metric is 5 but mAP, APl has no object."""
    metrics = {m: 5.0 for m in METRICS} | {"mAP": mAP, "APl": None} if status == "done" else {}
    fields = {f.name: {} for f in dataclasses.fields(RunRecord)}
    values = {
        "hash": e.hash(),
        "status": status,
        "reason": reason,
        "student": e.student,
        "method": e.method,
        "seed": e.seed,
        "scale": "smoke",
        "metrics": metrics,
        "parameters": 1_500_000 if metrics else 0,
        "seconds_per_step": 0.25,
        "wall_seconds": 60.0,
        "commit": "c" * 40,
        "dirty": True,
        "device": "cpu",
    }
    return RunRecord(**{**fields, **values, **changes})


def cells(text: str) -> list[dict]:
    """The rows of a Markdown table, each by its column heads."""
    lines = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
