"""Files that are either whole or not there: atomic writes."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path


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
