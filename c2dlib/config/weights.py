"""Files of initial weights, named by what is in them: ``NAME.safetensors@HASH``, wherever the file lies."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from c2dlib.files import sha256

FOLDER = Path("runs/weights")  # where a file is searched that is named without a folder
SOURCES = ("imagenet", "none", "badges", "crops")  # of a backbone's initial weights, beside files
# files that the scale photos names: what they hold
ORIGIN = {
    f"mobilenet_v1_{alpha * 100:03.0f}.safetensors": (
        f"It holds the ImageNet weights of MobileNet (alpha={alpha}) from Keras Applications; "
        "docs/photographs.md has the lines that convert them."
    )
    for alpha in (0.25, 1.0)
}


class WeightsError(Exception):
    """Initial weights do not exist, or do not fit the network."""


def is_file(reference: str) -> bool:
    """Whether a setting names a file, not a source such as ``imagenet``."""
    return reference.partition("@")[0].endswith(".safetensors")


def check_reference(setting: str, reference: str, sources: tuple[str, ...]) -> None:
    """Check that a setting names one of some sources or a .safetensors file; the file need not exist.

    Raises:
        WeightsError: otherwise, naming the setting and what it may be.
    """
    if reference in sources or is_file(reference):
        return
    valid = ", ".join(source or "empty" for source in sources)
    raise WeightsError(
        f"{setting}={reference}: must be {valid}, or a file that ends in .safetensors. Save the weights of "
        "another format with safetensors.torch.save_file(state_dict, 'NAME.safetensors')."
    )


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
            f"(backbone_weights=FOLDER/{places[0].name}, likewise teacher_weights). "
            f"{ORIGIN.get(places[0].name, '')}".rstrip()
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
    name, at, wanted = with_hash(reference).partition("@")
    return f"{Path(name).name}@{wanted}" if at else reference


def with_hash(reference: str) -> str:
    """``NAME@HASH`` for a file, with its folder; another source as it is.

    None but these weights are loaded by it, if the file is replaced later.

    Raises:
        WeightsError: for a file that is named without a hash and does not exist.
    """
    if not is_file(reference):
        return reference
    name, _, wanted = reference.partition("@")
    return f"{name}@{wanted or _content_hash(weights_path(name))}"


def _content_hash(path: Path) -> str:
    """The first twelve digits of a file's sha256, computed again only if the file was changed or replaced."""
    about = path.stat()
    return _hash_of(path.absolute(), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@cache
def _hash_of(path: Path, *about: int) -> str:
    return sha256(path.read_bytes())[:12]
