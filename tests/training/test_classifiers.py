"""The classifiers that are trained here: what they are asked about a split."""

import torch

from c2dlib.data.coco import load_folder
from c2dlib.training import classifiers
from tests.data.test_coco import good, write


def test_a_splits_crops_are_cut_on_the_device_of_the_classifier(tmp_path, monkeypatch):
    """Images and boxes both; the meta device stands for a GPU, which refuses to mix the two."""
    split = load_folder(write(tmp_path, train=good())).splits["train"]
    devices = []

    def cut(images, targets, size):
        devices.append(
            {images[0].device.type, targets[0]["boxes"].device.type, targets[0]["labels"].device.type}
        )
        return torch.zeros(len(targets[0]["boxes"]), 3, size, size), torch.zeros(len(targets[0]["boxes"]))

    monkeypatch.setattr(classifiers, "crop_batch", cut)
    crops = list(classifiers._crops(split, 0, 8, "meta"))
    assert len(crops) == len(split.with_boxes()) > 0
    assert devices == [{"meta"}] * len(crops)
