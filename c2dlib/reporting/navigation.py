"""The line below a notebook's title: where to open it, and its neighbours in the order of reading."""

from __future__ import annotations

from collections.abc import Callable

# The order in which a reader is led through the notebooks.
GROUPS = {
    "The method": ["00_method", "01_teacher"],
    "The paper's tables and figures": [
        "table1",
        "table2",
        "table3a",
        "table3b",
        "table4",
        "table5",
        "figure3_errors",
        "figure4_examples",
    ],
    "Beyond the paper": [
        "regimes",
        "controls",
        "reweighted",
        "sizes",
        "schedules",
        "table2x",
        "choices",
    ],
    "Scale, your data, your loop": ["scale", "your_data", "own_loop"],
}
ORDER = [name for names in GROUPS.values() for name in names]
MARK = "Open to run: "


def neighbours(name: str) -> dict[str, str]:
    """``previous`` and ``next`` -> the name of that notebook, where there is one."""
    if name not in ORDER:
        return {}
    place = ORDER.index(name)
    names = {"previous": place - 1, "next": place + 1}
    return {word: ORDER[i] for word, i in names.items() if 0 <= i < len(ORDER)}


def navigation(name: str, source: str, address: Callable[[str], str]) -> str:
    """The line of a notebook, in Markdown.

    Args:
        name: the notebook's file name without its suffix.
        source: the address of ``notebooks/<name>.ipynb``; empty: no link, the name alone.
        address: name of a neighbour -> its address; empty: likewise.
    """
    parts = [MARK + _link(f"notebooks/{name}.ipynb", source)]
    parts += [f"{word}: {_link(other, address(other))}" for word, other in neighbours(name).items()]
    return " · ".join(parts)


def _link(text: str, address: str) -> str:
    return f"[{text}]({address})" if address else f"`{text}`"


def with_navigation(text: str, line: str) -> str:
    """The Markdown of a first cell with ``line`` below its title, in place of the one it had."""
    title, *rest = [part for part in text.splitlines() if not part.startswith(MARK)] or [""]
    body = "\n".join(rest).strip("\n")
    return f"{title}\n\n{line}\n\n{body}".rstrip("\n")
