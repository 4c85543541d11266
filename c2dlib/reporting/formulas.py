"""Markdown as HTML whose formulas a browser draws by itself: MathML in place of LaTeX, without a script."""

from __future__ import annotations

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath


def markdown_to_html(source: str) -> str:
    """Markdown with formulas between dollar signs -> HTML with MathML.

    What is between dollar signs and no LaTeX stays as it is written.
    """
    return MarkdownWithMath(renderer=_Renderer(escape=False)).render(source)


class _Renderer(IPythonRenderer):
    """nbconvert's renderer, except for formulas."""

    def block_math(self, body: str) -> str:
        return _mathml(body, "block") or super().block_math(body)

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline") or super().inline_math(body)


def _mathml(latex: str, display: str) -> str:
    """A formula as MathML; empty where it is no LaTeX."""
    try:
        return convert(latex.strip(), display=display)
    except Exception:  # the library raises many kinds, some of them plain IndexErrors
        return ""
