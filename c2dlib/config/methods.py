"""Method names of the paper and of its controls, and what each method needs.

A method is a sum of parts, such as ``KDcls+loc``; a part is a loss. A new loss is a name in ``PARTS``, and in
``READ_BY_TEACHER`` if the classification teacher reads crops for it.
"""

from __future__ import annotations

CLASS_CONTROLS = [
    "KDcls-labels",
    "KDcls-smooth",
    "KDcls-mean",
    "KDcls-permuted",
]  # KD_cls with other probabilities than the teacher's for this object
L1_CONTROLS = {
    "loc-L1": "loc",
    "KDloc-L1": "KDloc",
}  # an L1 loss on boxes whose gradient has the size of that loss's
BOX_CONTROLS = {**L1_CONTROLS, "loc-other": "loc"}  # loc-other: loc on the pixels of another image
IMITATION_WEIGHTS = {
    "KD": "lambda_kd",
    "FGFI": "lambda_fgfi",
    "GID": "lambda_gid",
    "FKD": "lambda_fkd",
    "DeFeat": "lambda_defeat",
    "FitNets": "lambda_fitnets",
    "AT": "lambda_at",
    "PKD": "lambda_pkd",
    "CWD": "lambda_cwd",
}  # method -> setting
IMITATIONS = list(IMITATION_WEIGHTS)  # methods in which a detector imitates a stronger detector
PARTS = [
    "KDcls",
    *CLASS_CONTROLS,
    "loc",
    "KDloc",
    *BOX_CONTROLS,
    *IMITATIONS,
]  # in the order of a canonical name
# Parts that need the classification teacher.
READ_BY_TEACHER = ["KDcls", "KDcls-smooth", "KDcls-mean", "KDcls-permuted", "KDloc", "KDloc-L1"]
ALIASES = {
    "C2D": "KDcls+loc+KDloc",  # the paper's own method,
    "ours": "KDcls+loc+KDloc",  # and what the paper calls it
    "C2D-free": "KDcls-mean+loc-L1",  # C2D without a teacher in the training step
}
METHODS = [
    "baseline",
    "KDcls",
    "loc",
    "loc+KDloc",
    "KDcls+loc+KDloc",
    "C2D",
    *IMITATIONS,
    *(f"C2D+{name}" for name in IMITATIONS),
    *CLASS_CONTROLS,
    *BOX_CONTROLS,
    "C2D-free",
]


def parts(method: str) -> list[str]:
    """The losses of a method: ``C2D+FKD`` -> ``[KDcls, loc, KDloc, FKD]``; ``baseline`` -> ``[]``.

    Raises:
        ValueError: for an unknown part, naming the valid methods; for two imitations at once.
    """
    for alias, meaning in ALIASES.items():
        method = "+".join(meaning if token == alias else token for token in method.split("+"))
    names = [] if method == "baseline" else method.split("+")
    if unknown := [n for n in names if n not in PARTS]:
        raise ValueError(
            f"unknown method {'+'.join(unknown)!r}; valid: {', '.join(METHODS)}, or any sum of "
            f"{', '.join(PARTS)}"
        )
    if len(imitations := [n for n in names if n in IMITATIONS]) > 1:
        raise ValueError(
            f"method {method!r} imitates a detector in {len(imitations)} ways; "
            f"choose one of {', '.join(imitations)}"
        )
    return [p for p in PARTS if p in names]


def imitation_in(method: str) -> str:
    """The part of a method that imitates a detector: ``C2D+FKD`` -> ``FKD``, ``C2D`` -> ``""``."""
    return next((p for p in parts(method) if p in IMITATIONS), "")


def canonical(method: str) -> str:
    """One name per method, so that Table 1's ``KDcls+loc+KDloc`` and Table 2's ``ours`` share their runs."""
    return "+".join(parts(method)) or "baseline"


def localisation_term(part: str) -> str:
    """The loss on boxes that a part is, or is the control of: ``loc``, ``KDloc`` or ``""``."""
    return part if part in BOX_CONTROLS.values() else BOX_CONTROLS.get(part, "")


def needs_classifier(method: str) -> bool:
    """Whether a part of a method needs the classification teacher."""
    return not set(READ_BY_TEACHER).isdisjoint(parts(method))
