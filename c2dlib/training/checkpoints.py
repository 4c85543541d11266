"""Checkpoints to go on from, and students' files; both carry their own hash."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from c2dlib.files import parse_json, sha256, write_whole

NAME = r"step-(\d+)\.([0-9a-f]{16})\.pt"  # of a checkpoint: its step and the hash of its content


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


def last_step(folder: Path) -> int:
    """The step of the newest checkpoint in a folder, by its name; 0 without one."""
    names = (re.fullmatch(NAME, path.name) for path in folder.glob("step-*.pt"))
    return max((int(name[1]) for name in names if name), default=0)


def load_checkpoint(folder: Path) -> dict | None:
    """The newest checkpoint whose content matches its hash; damaged ones are named on stderr and skipped."""
    for path in sorted(folder.glob("step-*.pt"), reverse=True):
        name = re.fullmatch(NAME, path.name)
        content = path.read_bytes()
        if name and sha256(content)[:16] == name[2]:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        print(f"{path}: damaged (its content does not match its hash), not used", file=sys.stderr)
    return None


def student_file(state: dict[str, Tensor], about: dict) -> bytes:
    """The content of a ``student.safetensors``.

    Its header holds ``about`` and the hash of the same file without that hash, which is also the one in the
    run's record.
    """
    plain = save_safetensors(state, _header(about))
    return save_safetensors(state, _header(about | {"sha256": sha256(plain)}))


def student_hash(content: bytes) -> str:
    """The hash of a ``student.safetensors``; files of earlier versions have none in them.

    Raises:
        ValueError: if the file is not whole, or does not match the hash in it.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        header = parse_json(content[8 : 8 + length])
        about = parse_json(header["__metadata__"]["c2dlib"])
        if "sha256" not in about:
            return sha256(content)
        state = load_safetensors(content)
        exact = save_safetensors(state, _header(about)) == content
        written_hash = about.pop("sha256")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a whole safetensors file of a student ({error})") from error
    if not exact or sha256(save_safetensors(state, _header(about))) != written_hash:
        raise ValueError("its content does not match its hash")
    return written_hash


def weights_hash(content: bytes) -> str:
    """The hash of a student's weights alone, as a file without a header has it.

    Records of the first versions hold this one.

    Raises:
        ValueError: if the content is no whole safetensors file.
    """
    try:
        return sha256(save_safetensors(load_safetensors(content)))
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file ({error})") from error


def _header(about: dict) -> dict[str, str]:
    return {"c2dlib": json.dumps(about)}  # one key: the order of several would change from process to process
