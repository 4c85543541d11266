"""Names and styles of methods, and a saved figure."""

import pytest

from c2dlib.figures.style import METHOD_STYLES, method_name, method_style, new_figure, save


@pytest.mark.parametrize("label, name", [
    ("ours", "C2D"), ("KDcls+loc+KDloc", "C2D"), ("ours+FKD", "C2D + FKD"), ("KDcls+loc+KDloc+FKD, share 0.5", "C2D + FKD, share 0.5"), ("C2D + FKD, T 2", "C2D + FKD, T 2"),
    ("KDcls, λ_kc 0.4, T 2", "KDcls, λ_kc 0.4, T 2"), ("loc-L1+KDloc-L1", "loc-L1+KDloc-L1"), ("baseline", "baseline"),
    ("no method", "no method")])
def test_the_papers_method_is_called_c2d(label, name):
    assert method_name(label) == name


def test_a_method_has_one_style_by_any_name():
    assert method_style("ours") == method_style("KDcls+loc+KDloc") == METHOD_STYLES["KDcls+loc+KDloc"]
    assert method_style("PKD") == ("#8C8C8C", "-.")  # none of its own


def test_a_saved_figure_is_a_png_and_is_returned(tmp_path):
    figure, _ = new_figure(1, 1, (1, 1))
    assert save(figure, tmp_path / "figure.png") is figure
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
