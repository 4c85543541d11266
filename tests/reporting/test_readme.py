"""The README shows the committed tables, and its code runs."""

import re

import pytest
import timm
import torch
from torchvision.models import WeightsEnum, detection

import c2dlib
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


def test_the_readmes_own_loop_runs_as_printed(tmp_path, monkeypatch):
    """With random weights in the place of what it downloads, and a slim classifier."""
    section = (ROOT / "README.md").read_text().split("## In your own training loop\n")[1].split("\n## ")[0]
    assert section.count("\n") <= 20
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    builder, create = detection.fasterrcnn_mobilenet_v3_large_320_fpn, timm.create_model
    torch.manual_seed(0)
    published = builder(weights=None, weights_backbone=None).state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: published)
    slim = {"channels": (8, 16, 32, 64), "pretrained": False}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **given | slim))
    monkeypatch.chdir(tmp_path)
    target = {"boxes": torch.tensor([[8.0, 8, 60, 70], [30, 20, 90, 90]]), "labels": torch.tensor([1, 90])}
    dataset, names = [(torch.rand(3, 96, 96), target)] * 2, {}
    exec(  # the README's own text
        code,
        {
            "c2dlib": c2dlib,
            "timm": timm,
            "torch": torch,
            "fasterrcnn_mobilenet_v3_large_320_fpn": builder,
            "device": "cpu",
            "dataset": dataset,
            "loader": [([image], [target]) for image, target in dataset],
        },
        names,
    )
    assert list(names["losses"])[-3:] == ["KDcls", "loc", "KDloc"]
    saved = torch.load(tmp_path / "student.pth")
    assert {key for key in published if not key.endswith("num_batches_tracked")} == set(saved)
    assert any(not torch.equal(value, published[key]) for key, value in saved.items())
