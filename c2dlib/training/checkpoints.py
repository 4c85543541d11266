"""Checkpoints to go on from, which carry their own hash."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import torch

from c2dlib.files import sha256, write_whole


def save_checkpoint(folder: Path, step: int, state: dict) -> Path:
    """Write ``step-N.HASH.pt``; earlier checkpoints go once it is complete."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}.{sha256(content)[:16]}.pt"
    write_whole(path, content)
    for old in folder.glob("step-*.pt"):
        if old != path:
            old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> dict | None:
    """The newest checkpoint whose content matches its hash; damaged ones are named on stderr and skipped."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        name = re.fullmatch(r"step-(\d+)\.([0-9a-f]{16})\.pt", path.name)
        content = path.read_bytes()
        if name and sha256(content)[:16] == name[2]:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        print(f"{path}: damaged (its content does not match its hash), not used", file=sys.stderr)
    return None
