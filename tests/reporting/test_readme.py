"""The README shows the committed tables."""

import re

import pytest

from c2dlib.records import ROOT
from c2dlib.reporting.readme import update_readme


def test_the_readme_shows_the_committed_tables(tmp_path):
    now = (ROOT / "README.md").read_text()
    readme = tmp_path / "README.md"
    readme.write_text(re.sub(r"(make readme` -->\n).*?(<!-- end)", r"\1stale\n\2", now, flags=re.DOTALL))
    assert "stale" in readme.read_text()
    update_readme(readme)
    assert readme.read_text() == now
    readme.write_text("<!-- results/none.csv: written by `make readme` -->\n<!-- end -->")
    with pytest.raises(FileNotFoundError, match="none.csv"):
        update_readme(readme)
    assert readme.read_text().startswith("<!-- results/none.csv")
