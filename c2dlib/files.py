"""Files that are either whole or not there: atomic writes, and checkpoints that carry their own hash."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import torch


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old or the new one, never a part.

    Raises:
        OSError: with a message that names the file and, if the disk is full, says so; the old file is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "no space left on the device; free some and run again" if full else error.strerror
            raise OSError(error.errno, f"cannot write {path} ({len(content) / 2**20:.1f} MiB): {reason}. "
                                       f"The previous file is intact.") from error
        raise


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
