"""The paper's method names, and what each of them needs."""

from __future__ import annotations

CLASS_CONTROLS = ["KDcls-labels", "KDcls-smooth", "KDcls-mean"]  # controls: something else in the teacher's place
L1_CONTROLS = {"loc-L1": "loc", "KDloc-L1": "KDloc"}  # controls: an L1 box loss with the gradient of that term
IMITATIONS = ["KD", "FGFI", "GID", "FKD", "DeFeat", "FitNets", "AT", "PKD", "CWD"]  # from a detector to a detector
UNDEFINED_FOR = {"ssd": ["KD", "FGFI", "GID", "DeFeat"], "fcos": ["KD", "FGFI", "GID"]}  # they need a pyramid, or anchors
PARTS = ["KDcls", *CLASS_CONTROLS, "loc", "KDloc", *L1_CONTROLS, *IMITATIONS]  # what a method name is made of, in this order
ALIASES = {"ours": "KDcls+loc+KDloc", "C2D": "KDcls+loc+KDloc"}  # the paper's name, and the one in tables and figures
METHODS = ["baseline", "KDcls", "loc", "loc+KDloc", "KDcls+loc+KDloc", "ours", *IMITATIONS, *(f"ours+{name}" for name in IMITATIONS),
           *CLASS_CONTROLS, *L1_CONTROLS]


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
    if len(rivals := [n for n in names if n in IMITATIONS]) > 1:
        raise ValueError(f"method {method!r} imitates a detector in {len(rivals)} ways; choose one of {', '.join(rivals)}")
    return [p for p in PARTS if p in names]


def imitation_in(method: str) -> str:
    """The part of a method that imitates a detector, or none: ``ours+FKD`` -> ``FKD``, ``ours`` -> ``""``."""
    return next((p for p in parts(method) if p in IMITATIONS), "")


def canonical(method: str) -> str:
    """One name per method, so that Table 1's ``KDcls+loc+KDloc`` and Table 2's ``ours`` share their runs."""
    return "+".join(parts(method)) or "baseline"


def localisation_term(name: str) -> str:
    """The term on boxes that a part of a method is or imitates: loc, KDloc, or none."""
    return name if name in L1_CONTROLS.values() else L1_CONTROLS.get(name, "")


def needs_classifier(method: str) -> bool:
    """Whether a part of a method needs the classification teacher."""
    return any(p in ("KDcls", "KDcls-smooth", "KDcls-mean") or localisation_term(p) == "KDloc" for p in parts(method))
