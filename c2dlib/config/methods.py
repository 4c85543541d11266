"""The paper's method names, and what each of them needs."""

from __future__ import annotations

TARGETS = ["KDcls-labels", "KDcls-smooth", "KDcls-mean"]  # controls: something else in the teacher's place
WITHOUT_IMAGE = {"loc-L1": "loc", "KDloc-L1": "KDloc"}  # controls: an L1 box loss with the gradient of that term
RIVALS = ["KD", "FGFI", "GID", "FKD", "DeFeat", "FitNets", "AT", "PKD", "CWD"]  # from a detector to a detector
UNDEFINED = {"ssd": ["KD", "FGFI", "GID", "DeFeat"], "fcos": ["KD", "FGFI", "GID"]}  # they need a pyramid, or anchors
PARTS = ["KDcls", *TARGETS, "loc", "KDloc", *WITHOUT_IMAGE, *RIVALS]  # what a method name is made of, in this order
ALIASES = {"ours": "KDcls+loc+KDloc"}
METHODS = ["baseline", "KDcls", "loc", "loc+KDloc", "KDcls+loc+KDloc", "ours", *RIVALS, *(f"ours+{name}" for name in RIVALS),
           *TARGETS, *WITHOUT_IMAGE]


def parts(method: str) -> list[str]:
    """``ours+FKD`` -> ``[KDcls, loc, KDloc, FKD]``; ``baseline`` -> ``[]``.

    Raises:
        ValueError: naming the valid methods.
    """
    for alias, meaning in ALIASES.items():
        method = "+".join(meaning if token == alias else token for token in method.split("+"))
    names = [] if method == "baseline" else method.split("+")
    if unknown := [n for n in names if n not in PARTS]:
        raise ValueError(f"unknown method {'+'.join(unknown)!r}; valid: {', '.join(METHODS)}, or any sum of "
                         f"{', '.join(PARTS)}")
    if len(rivals := [n for n in names if n in RIVALS]) > 1:
        raise ValueError(f"method {method!r} imitates a detector in {len(rivals)} ways; choose one of {', '.join(rivals)}")
    return [p for p in PARTS if p in names]


def rival(method: str) -> str:
    """The part of a method that imitates a detector, or none: ``ours+FKD`` -> ``FKD``, ``ours`` -> ``""``."""
    return next((p for p in parts(method) if p in RIVALS), "")


def canonical(method: str) -> str:
    """One name per method, so that Table 1's ``KDcls+loc+KDloc`` and Table 2's ``ours`` share their runs."""
    return "+".join(parts(method)) or "baseline"


def place_term(name: str) -> str:
    """The term on boxes that a part of a method is or imitates: loc, KDloc, or none."""
    return name if name in WITHOUT_IMAGE.values() else WITHOUT_IMAGE.get(name, "")


def asks_teacher(method: str) -> bool:
    """Whether a part of a method needs the classification teacher."""
    return any(p in ("KDcls", "KDcls-smooth", "KDcls-mean") or place_term(p) == "KDloc" for p in parts(method))
