"""Atomic writes, and hashes of file contents."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file atomically: a reader finds the old content or the new one, never a part.

    Raises:
        OSError: if the file cannot be written, for instance to a full disk; the message names it. The old
            file is intact.
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
            raise OSError(
                error.errno,
                f"cannot write {path} ({len(content) / 2**20:.1f} MiB): {reason}. "
                f"The previous file is intact.",
            ) from error
        raise


def sha256(content: bytes) -> str:
    """The sha256 of some bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
