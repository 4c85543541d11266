"""Reading a COCO-format folder: what its splits hold, from the file to the item."""

import contextlib
import copy
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from c2dlib.data.badges import make_badges
from c2dlib.data.coco import load_folder
from c2dlib.data.segmentations import draw
from c2dlib.data.validation import DataError

WIDTH, HEIGHT = 12, 8


def good() -> dict:
    """Category ids with a gap; image 30 has no annotation; 9 is a crowd, 7 has the bare minimum."""
    names = {10: "c.png", 20: "b.png", 30: "a.png"}
    images = [{"id": i, "file_name": names[i], "width": WIDTH, "height": HEIGHT} for i in (30, 10, 20)]
    return {
        "images": images,
        "categories": [{"id": 7, "name": "cup"}, {"id": 3, "name": "bun"}],
        "annotations": [
            {"id": 9, "image_id": 20, "category_id": 3, "bbox": [0, 0, 12, 8], "area": 50, "iscrowd": 1},
            {"id": 7, "image_id": 20, "category_id": 7, "bbox": [1, 2, 3, 4]},
            {"id": 0, "image_id": 10, "category_id": 3, "bbox": [2.5, 1, 4, 2], "area": 5.5, "iscrowd": 0},
        ],
    }


def write(root: Path, **splits: dict | str) -> Path:
    """A good folder with train and val, except for the splits given. Val's pixels are (11, 20, 30)."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for name, data in ({"train": good(), "val": good()} | splits).items():
        text = data if isinstance(data, str) else json.dumps(data)
        (root / f"annotations/instances_{name}2017.json").write_text(text)
        (root / f"{name}2017").mkdir(exist_ok=True)
        red = 10 + ["train", "val", "test"].index(name)  # the same image in two splits would be refused
        for file in ("a.png", "b.png", "c.png"):
            Image.new("RGB", (WIDTH, HEIGHT), (red, 20, 30)).save(root / f"{name}2017" / file)
    return root


def test_a_good_folder(tmp_path):
    folder = load_folder(write(tmp_path / "shop"))
    train = folder.splits["train"]
    assert (folder.name, folder.eval_split, folder.image_counts) == ("shop", "val", {"train": 3, "val": 3})
    assert train.image_ids == [10, 20, 30] and train.class_names == ["bun", "cup"] and len(train) == 3
    assert [c.id for c in folder.categories] == [3, 7] and folder.area_cuts == (32, 96)
    image, target = train[1]
    assert image[:, 0, 0].tolist() == [10, 20, 30] and image.shape == (3, HEIGHT, WIDTH)
    assert target["boxes"].tolist() == [[1, 2, 4, 6]] and target["boxes"].canvas_size == (HEIGHT, WIDTH)
    assert target["labels"].tolist() == [2] and target["image_id"] == 20  # the crowd is no target
    assert train[0][1]["labels"].tolist() == [1]
    empty = train[2][1]
    assert empty["boxes"].shape == (0, 4) and empty["labels"].dtype == torch.int64
    assert len(list(iter(train[i] for i in range(3)))) == 3
    with pytest.raises(IndexError):
        train[3]
    assert "train: 3 images (1 without boxes), 2 boxes of 2 classes, 1 crowds" in folder.report.summary()
    assert [w.split(",")[0] for w in folder.report.warnings] == [
        "1 image(s) of train are there twice",
        "1 image(s) of val are there twice",
    ]


def test_evaluation_dict_keeps_the_crowd_and_fills_fields(tmp_path):
    annotations = load_folder(write(tmp_path)).splits["val"].annotations
    assert annotations["annotations"] == [
        {
            "id": 1,
            "image_id": 10,
            "category_id": 3,
            "bbox": [2.5, 1, 4, 2],
            "area": 5.5,
            "iscrowd": 0,
            "source_id": 0,
        },
        {
            "id": 2,
            "image_id": 20,
            "category_id": 7,
            "bbox": [1, 2, 3, 4],
            "area": 12,
            "iscrowd": 0,
            "source_id": 7,
        },
        {
            "id": 3,
            "image_id": 20,
            "category_id": 3,
            "bbox": [0, 0, 12, 8],
            "area": 50,
            "iscrowd": 1,
            "source_id": 9,
        },
    ]
    assert annotations["images"][0] == {"id": 10, "width": WIDTH, "height": HEIGHT, "file_name": "c.png"}


@pytest.mark.parametrize("package", ["hotcoco", "pycocotools"])
def test_both_evaluators_take_the_dict(tmp_path, package):
    annotations = copy.deepcopy(load_folder(write(tmp_path)).splits["val"].annotations)
    found = [{"image_id": 10, "category_id": 3, "bbox": [2.5, 1, 4, 2], "score": 0.9},
             {"image_id": 20, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.9},
             {"image_id": 20, "category_id": 3, "bbox": [5, 5, 3, 3], "score": 0.95}]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        if package == "hotcoco":
            from hotcoco import COCO, COCOeval

            truth = COCO(annotations)
            evaluation = COCOeval(truth, truth.load_res(found), "bbox")
        else:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval

            truth = COCO()
            truth.dataset = annotations
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)  # the box inside the crowd is ignored, not a mistake


def test_test_split_area_cuts_and_hash(tmp_path):
    train = good() | {"info": {"area_cuts": [10, 20.5]}}
    root = write(tmp_path, train=train, test=good())
    folder = load_folder(root)
    assert (
        folder.eval_split == "test" and folder.area_cuts == (10, 20.5) and len(folder.annotation_hash) == 64
    )
    assert load_folder(root).annotation_hash == folder.annotation_hash
    (root / "annotations/instances_test2017.json").write_text(json.dumps(good()) + " ")
    assert load_folder(root).annotation_hash != folder.annotation_hash


def test_unlabelled_test_images_are_not_used(tmp_path):
    root = write(tmp_path)
    (root / "test2017").mkdir()
    folder = load_folder(root)
    assert folder.eval_split == "val" and "test2017/" in folder.report.warnings[0]


def test_loading_writes_nothing(tmp_path):
    def state():
        return {
            p: hashlib.sha256(p.read_bytes()).digest() for p in sorted(tmp_path.rglob("*")) if p.is_file()
        }

    write(tmp_path)
    before = state()
    load_folder(tmp_path).splits["train"][0]
    assert state() == before


@pytest.mark.parametrize("cache_bytes", [0, 1e9])
def test_items_are_the_same_with_and_without_cache(tmp_path, cache_bytes):
    train = load_folder(write(tmp_path), cache_bytes=cache_bytes).splits["train"]
    image, _ = train[0]
    image.zero_()
    assert train[0][0][:, 0, 0].tolist() == [10, 20, 30]
    (tmp_path / "train2017/c.png").unlink()
    if cache_bytes:
        assert train[0][0].shape == (3, HEIGHT, WIDTH)
    else:
        with pytest.raises(DataError, match="c.png: image id 10"):
            train[0]


def test_coco_tiny(shared):
    folder = load_folder(shared / "data" / "coco-tiny")
    assert len(folder.categories) == 80 and folder.image_counts == {"train": 80, "val": 80}
    assert folder.report.counts["train"]["crowds"] == 6 and folder.report.counts["train"]["boxes"] == 699
    train = folder.splits["train"]
    assert sum(len(train[i][1]["labels"]) for i in range(80)) == 699
    assert train.class_names[0] == "person" and train.class_names[79] == "toothbrush"


def test_groceries_load(shared):
    folder = load_folder(shared / "data" / "groceries")
    assert len(folder.categories) == 25 and folder.image_counts == {"train": 3456, "val": 742, "test": 743}


BOX = [2, 1, 6, 1, 6, 5, 2, 5]  # x 2..6, y 1..5
RLE = {"size": [HEIGHT, WIDTH], "counts": [9, 2, 6, 2, 77]}  # column-major: rows 1 and 2 of columns 1 and 2


def with_outlines(root, **outlines):
    train = good()
    for row in train["annotations"]:
        if f"id{row['id']}" in outlines:
            row["segmentation"] = outlines[f"id{row['id']}"]
    return load_folder(write(root, train=train)).splits["train"]


def test_masks_of_polygons_and_runs(tmp_path):
    """Annotation 7 has two polygons, 0 a run-length code; the crowd's is not asked for."""
    split = with_outlines(tmp_path, id7=[BOX, [8, 6, 10, 6, 10, 8, 8, 8]], id0=RLE)
    assert "masks" not in split[0][1]
    split = split.with_masks()
    drawn = {i: split[i][1]["masks"] for i in range(3)}
    assert [m.dtype == torch.uint8 and tuple(m.shape) for m in drawn.values()] == [
        (1, 8, 12),
        (1, 8, 12),
        (0, 8, 12),
    ]
    expected = torch.zeros(8, 12, dtype=torch.uint8)
    expected[1:3, 1:3] = 1
    assert torch.equal(drawn[0][0].as_subclass(torch.Tensor), expected)
    expected = torch.zeros(8, 12, dtype=torch.uint8)
    expected[1:5, 2:6] = expected[6:8, 8:10] = 1
    assert torch.equal(drawn[1][0].as_subclass(torch.Tensor), expected)


def test_masks_for_all_boxes_or_for_none(tmp_path):
    split = load_folder(write(tmp_path / "none")).splits["train"]
    assert split.with_masks() is split
    with pytest.raises(
        DataError, match=r"train2017.json: 1 of 2 boxes have no segmentation, such as annotation id 0\. "
    ):
        with_outlines(tmp_path / "some", id7=[BOX]).with_masks()


@pytest.mark.parametrize(
    ("outline", "words"),
    [
        ([[1, 2]], "polygon 0 must be a list of at least three points"),
        ([5], "polygon 0 must be a list of at least three points"),
        ([BOX, [*BOX, 1]], "polygon 1 must be a list of at least three points"),
        ([[*BOX[:7], "5"]], "polygon 0 must hold numbers only"),
        ([[*BOX[:7], True]], "polygon 0 must hold numbers only"),
        ([[*BOX[:6], float("inf"), 5]], "polygon 0 has the x inf, which is not near the image (0 to 12)"),
        ([[*BOX[:7], float("nan")]], "polygon 0 has the y nan, which is not near the image (0 to 8)"),
        ([[*BOX[:6], 1e9, 5]], "polygon 0 has the x 1e+09"),
        ([[*BOX[:7], 10**400]], "polygon 0 has a number that is too large"),
        ("outline", "must be a list of polygons, or an object with size and counts"),
        ({"counts": [96]}, "size must be [8, 12]"),
        ({"size": [2147483647, 2147483647], "counts": [96]}, "size must be [8, 12]"),
        ({"size": [12, 8], "counts": [96]}, "size must be [8, 12]"),
        ({"size": [8.0, 12], "counts": [96]}, "size must be [8, 12]"),
        ({"size": [1, 1], "counts": [0, 1]}, "size must be [8, 12]"),
        (RLE | {"counts": [9, 2]}, "counts have the sum 11, must fill the image's 96 pixels"),
        (RLE | {"counts": [*RLE["counts"], 1]}, "counts have the sum 97"),
        (RLE | {"counts": [98, -2]}, "counts must be a list of whole numbers >= 0"),
        (RLE | {"counts": [96.0]}, "counts must be a list of whole numbers >= 0"),
        (RLE | {"counts": None}, "counts must be a list of whole numbers >= 0"),
        (RLE | {"counts": "9262Y"}, "counts are cut off"),
        (RLE | {"counts": "9 2"}, "counts hold ' '"),
        (RLE | {"counts": "9é"}, "counts hold 'é'"),
        (RLE | {"counts": "92"}, "counts have the sum 11"),
        (RLE | {"counts": "P" * 40}, "counts hold 'P'"),
    ],
)
def test_a_segmentation_that_cannot_be_drawn_is_named(tmp_path, outline, words):
    """Before pycocotools sees it, and only where masks are used."""
    split = with_outlines(tmp_path, id7=[BOX], id0=outline)
    assert split[0][1]["boxes"].tolist() == [[2.5, 1, 6.5, 3]]
    with pytest.raises(DataError) as caught:
        split.with_masks()
    where = f"{tmp_path}/annotations/instances_train2017.json: 1 segmentation(s) cannot be drawn:"
    assert f"{where}\n  annotation id 0: segmentation: {words}" in str(caught.value)


def test_compressed_run_lengths_are_pycocotools_own():
    """Random masks through pycocotools' text and back."""
    generator = np.random.default_rng(0)
    for height, width in ((8, 12), (1, 1), (60, 70), (300, 2)):
        for share in (0.0, 0.1, 0.5, 1.0):
            mask = (generator.random((height, width)) < share).astype(np.uint8)
            text = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
            assert np.array_equal(draw({"size": [height, width], "counts": text}, height, width), mask)


def test_masks_of_real_photographs_fill_their_boxes(shared):
    split = load_folder(shared / "data" / "coco-tiny").splits["val"].with_masks()
    off = []
    for i in split.with_boxes():
        _, target = split[i]
        for mask, box in zip(target["masks"], target["boxes"], strict=True):
            y, x = torch.where(mask > 0)
            off.append(
                (torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) - box).abs().max()
                if len(x)
                else torch.tensor(99)
            )
    assert len(off) > 300 and (torch.stack(off) < 1.5).float().mean() > 0.95


def test_parts_of_a_split_have_no_image_in_common(tmp_path):
    root = make_badges(tmp_path / "badges", train=10, val=1, test=0)
    train = load_folder(root).splits["train"]
    parts = [train.part(0.3, number).with_boxes() for number in range(3)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7, 8]] and train.with_boxes() == list(range(10))
    assert train.part(1.0).with_boxes() == list(range(10)) and train.part(0.01).with_boxes() == [0]
    with pytest.raises(DataError, match=r"10 images of train with boxes have no part number 500 \(draw\)"):
        train.part(0.001, 500)
