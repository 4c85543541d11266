"""Files of initial weights, named by what is in them: ``NAME.safetensors@HASH``, wherever the file lies."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from c2dlib.files import sha256

FOLDER = Path("runs/weights")  # where a file is searched that is named without a folder


class WeightsError(Exception):
    """Initial weights do not exist, or do not fit the network."""


def is_file(reference: str) -> bool:
    """Whether a setting names a file, not a source such as ``imagenet``."""
    return reference.partition("@")[0].endswith(".safetensors")


def weights_path(reference: str) -> Path:
    """The file of ``NAME.safetensors`` or ``NAME.safetensors@HASH``.

    It is the file at that path, else the file of that name in ``runs/weights/``.

    Raises:
        WeightsError: if there is none, or its content has another hash.
    """
    name, _, wanted = reference.partition("@")
    places = [Path(name), FOLDER / Path(name).name]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise WeightsError(
            f"{reference}: no such file. Put it into {FOLDER}/, or name its place "
            f"(backbone_weights=FOLDER/{places[0].name}, likewise teacher_weights)."
        )
    if wanted and (actual := _content_hash(path, path.stat().st_mtime_ns)) != wanted:
        raise WeightsError(
            f"{path}: its content has the hash {actual}, not {wanted} as in {reference}. To use it all the "
            f"same, name it without the hash: {name}; the results are then those of other weights, under "
            "another hash."
        )
    return path


def identity(reference: str) -> str:
    """The entry for weights in a run's identity.

    It is ``NAME@HASH`` for a file, without its folder; for another source it is the reference itself.

    Raises:
        WeightsError: for a file that is named without a hash and does not exist.
    """
    if not is_file(reference):
        return reference
    name, _, wanted = reference.partition("@")
    if not wanted:
        path = weights_path(reference)
        wanted = _content_hash(path, path.stat().st_mtime_ns)
    return f"{Path(name).name}@{wanted}"


@cache
def _content_hash(path: Path, changed: int) -> str:
    """The first twelve digits of a file's sha256, computed again only if its time of change differs."""
    return sha256(path.read_bytes())[:12]
