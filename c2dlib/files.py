"""Atomic writes, their leftovers, hashes of file contents, and small YAML and CSV files."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import yaml

# A file that is being written: ".NAME.", eight random characters, ".tmp", perhaps a suffix.
TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp(\.ipynb)?")


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file atomically: a reader finds the old content or the new one, never a part.

    Raises:
        OSError: if the file cannot be written, for instance to a full disk; the message names it. The old
            file is intact.
    """
    content = content.encode() if isinstance(content, str) else content
    with errors_named(path, f" ({len(content) / 2**20:.1f} MiB)"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as (handle, temporary):
            with open(handle, "wb", closefd=False) as file:
                file.write(content)
            os.fsync(handle)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)


class WriteError(OSError):
    """A file could not be written; the message names it and gives the reason."""


@contextlib.contextmanager
def errors_named(path: Path, about: str = "") -> Iterator[None]:
    """Turn an OSError of writing ``path`` into a ``WriteError``."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on the device; free some and run again" if full else error.strerror or error
        raise WriteError(
            error.errno, f"cannot write {path}{about}: {reason}. The previous file is intact."
        ) from error


def check_replaceable(path: Path, is_own: Callable[[bytes], bool], command: str) -> None:
    """Check that a command may write a file: there is none of that name, or an earlier call wrote it.

    Args:
        is_own: whether this content is the command's.

    Raises:
        FileExistsError: if the file is something else, which is intact.
    """
    if not os.path.lexists(path):
        return
    with contextlib.suppress(Exception):  # readers raise many types on what they cannot read
        if not path.is_symlink() and is_own(path.read_bytes()):
            return
    raise FileExistsError(
        f"{path}: is there already, and {command} did not write it. Nothing was written; "
        "name another place, or move that file away"
    )


@contextlib.contextmanager
def temporary_file(path: Path, suffix: str = "") -> Iterator[tuple[int, str]]:
    """An open temporary file beside ``path``; removed at the end, if it was not renamed.

    It is locked until then, so that ``sweep`` in another process leaves it alone.

    Yields:
        Its descriptor and its path.
    """
    while True:
        handle, temporary = tempfile.mkstemp(f".tmp{suffix}", f".{path.name}.", path.parent)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(temporary):
            break
        os.close(handle)  # swept before it was locked
    try:
        yield handle, temporary
    finally:
        Path(temporary).unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder that appears under its name when it is complete, not before.

    What killed processes left of earlier tries is removed first; what a living one works on is left alone.

    Args:
        target: the folder; it does not exist, or is empty.

    Yields:
        A hidden folder beside it, to work in. At the end its subfolder ``whole`` becomes the target.

    Raises:
        OSError: if the folder cannot be written.
    """
    prefix = f".{target.name}-unfinished-"
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in [path for path in target.parent.iterdir() if path.name.startswith(prefix)]:
        with contextlib.suppress(OSError), _open_folder(left) as handle:  # locked, or just removed
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    with errors_named(target), _temporary_folder(target.parent, prefix) as temporary:
        yield temporary
        if target.is_dir():
            target.rmdir()  # it is empty
        os.replace(temporary / "whole", target)


@contextlib.contextmanager
def _temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder, locked as long as it is used and removed at the end."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                break
            os.close(handle)  # removed by another process before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


def sweep(folder: Path, names: Container[str] | None = None) -> None:
    """Remove the temporary files in a folder whose processes have ended.

    Args:
        names: of the files that they were to become, in a folder where other programs write too; None: all.
    """
    for path in sorted(folder.glob(".*")) if folder.is_dir() else []:
        if (name := TEMPORARY.fullmatch(path.name)) and (names is None or name[1] in names):
            with contextlib.suppress(OSError), open(path, "rb") as file:  # locked, or just renamed
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def remove_hidden_files(folder: Path) -> None:
    """Remove what killed processes left in a folder in which only the caller writes now.

    Hidden folders stay; JupyterLab makes .ipynb_checkpoints.
    """
    for path in folder.glob(".*"):
        if not path.is_dir():
            path.unlink(missing_ok=True)


def read_file(path: Path) -> bytes:
    """``path.read_bytes()`` of a file or a link to one; no pipe or device is waited for.

    Raises:
        OSError: if it cannot be read, or is something else.
        ValueError: for a path that no file can have.
    """
    if path.exists() and not path.is_file():
        raise OSError("is no file")
    return path.read_bytes()


def parse_json(text: str | bytes) -> Any:
    """``json.loads``, which raises a ValueError also for what is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class _YamlLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a key that an object holds twice.

    An alias must stand for a text or a number: a few lines with aliases of lists can describe a list that no
    memory holds. A whole number that is not written as Python writes it stays a text, such as the name 007.
    """

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        alias = self.peek_event() if self.check_event(yaml.AliasEvent) else None
        node = super().compose_node(parent, index)
        if alias and not isinstance(node, yaml.ScalarNode):
            line = alias.start_mark.line + 1
            raise yaml.YAMLError(f"line {line}: *{alias.anchor} is a list or an object; write it out")
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int | str:
        value = super().construct_yaml_int(node)
        return value if re.fullmatch(r"0|-?[1-9][0-9]*", node.value) else node.value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                value = self.construct_object(key)
                if value in keys:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value} is there twice")
                keys.add(value)
        return super().construct_mapping(node, deep)


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """What a YAML text says; see ``_YamlLoader`` for what is refused beside what is no YAML.

    Raises:
        ValueError: with the reason in one line.
    """
    try:
        return yaml.load(text, _YamlLoader)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except Exception as error:  # PyYAML raises many types, such as IndexError for `!!int ""`
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        ValueError: if it cannot be read or ``parse_yaml`` refuses it; the message names it.
    """
    try:
        return parse_yaml(read_file(path).decode())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from error


def read_csv(path: Path) -> list[dict]:
    """The lines of a CSV file; an empty cell is NaN. Without pandas, which takes long to load.

    A column is of one type: int, else float, else text. One with empty cells is float or text.
    """
    with open(path, newline="") as file:
        head, *lines = csv.reader(file)
    columns = [_typed(column) for column in zip(*lines, strict=True)] if lines else []
    return [dict(zip(head, line, strict=True)) for line in zip(*columns, strict=True)]


def _typed(cells: tuple[str, ...]) -> list:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return [kind(cell or "nan") for cell in cells]
    return [cell or float("nan") for cell in cells]


def sha256(content: bytes) -> str:
    """The sha256 of some bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def body_hash(body: dict) -> str:
    """The sha256 of a JSON object, independent of the order of its keys."""
    return sha256(json.dumps(body, sort_keys=True).encode())


def json_with_hash(body: dict, sort_keys: bool = False, indent: int | None = 1) -> str:
    """A JSON object as text, with the hash of its content as last entry, ``sha256``."""
    return json.dumps({**body, "sha256": body_hash(body)}, indent=indent, sort_keys=sort_keys)


def read_json_with_hash(text: str, indent: int | None = 1) -> dict:
    """The object of ``json_with_hash``, without its hash; every byte of the text is checked.

    Raises:
        ValueError: if it is no such object, its content does not match its hash, or the text is not as
            ``json_with_hash`` writes it.
    """
    body = parse_json(text)
    if not isinstance(body, dict) or "sha256" not in body:
        raise ValueError("not an object with an entry sha256")
    plain = json.dumps(body, indent=indent)
    written_hash = body.pop("sha256")
    if body_hash(body) != written_hash or plain != text:
        raise ValueError("content does not match its hash")
    return body
