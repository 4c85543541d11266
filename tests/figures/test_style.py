"""Names and styles of methods, and a saved figure."""

from c2dlib.figures.style import METHOD_STYLES, method_style, new_figure, save


def test_a_method_has_one_style_by_any_name():
    assert method_style("ours") == method_style("KDcls+loc+KDloc") == METHOD_STYLES["KDcls+loc+KDloc"]
    assert method_style("PKD") == ("#8C8C8C", "-.")  # none of its own


def test_a_saved_figure_is_a_png_and_is_returned(tmp_path):
    figure, _ = new_figure(1, 1, (1, 1))
    assert save(figure, tmp_path / "figure.png") is figure
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
