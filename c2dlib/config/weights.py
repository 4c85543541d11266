"""Files of initial weights, named by what is in them: ``NAME.safetensors@HASH``, wherever the file lies."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from c2dlib.files import sha256

FOLDER = Path("runs/weights")  # where a file is searched that is named without a folder


class WeightsError(Exception):
    """Initial weights do not exist, or do not fit the network."""


def check_reference(reference: str, sources: tuple[str, ...], setting: str) -> None:
    """Refuse what is neither one of ``sources`` nor the name of a .safetensors file.

    Raises:
        ValueError: naming the setting and what it may be.
    """
    if reference not in sources and not is_file(reference):
        raise ValueError(
            f"{setting}={reference} must be a file, NAME.safetensors or NAME.safetensors@HASH"
            + (f", or one of {', '.join(filter(None, sources))}" if any(sources) else "")
            + (". Write a .pt file anew with safetensors.torch.save_file" if ".pt" in reference else "")
        )


def read_weights(path: Path) -> dict:
    """The tensors of a .safetensors file.

    Raises:
        WeightsError: if it is damaged, or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a whole safetensors file ({error})") from error


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
    if wanted and (actual := _content_hash(path)) != wanted:
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
        wanted = _content_hash(weights_path(reference))
    return f"{Path(name).name}@{wanted}"


def _content_hash(path: Path) -> str:
    """The first twelve digits of a file's sha256, computed again only if the file was changed or replaced."""
    about = path.stat()
    return _hash_of(path.absolute(), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@cache
def _hash_of(path: Path, *about: int) -> str:
    return sha256(path.read_bytes())[:12]
