"""The loader of COCO-format folders: each test breaks one thing in a good folder."""

import contextlib
import copy
import hashlib
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from c2dlib.data import coco
from c2dlib.data.coco import DataError, load_folder

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
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
    """A good folder with train and val, except for the splits given."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for name, data in ({"train": good(), "val": good()} | splits).items():
        text = data if isinstance(data, str) else json.dumps(data)
        (root / f"annotations/instances_{name}2017.json").write_text(text)
        (root / f"{name}2017").mkdir(exist_ok=True)
        for file in ("a.png", "b.png", "c.png"):
            Image.new("RGB", (WIDTH, HEIGHT), (10, 20, 30)).save(root / f"{name}2017" / file)
    return root


def broken(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_folder(root)
    text = str(caught.value)
    assert text.startswith(str(root)) and "What to do: " in text.splitlines()[-1]
    return text


def only_image(root: Path, image: Image.Image, name: str, size: tuple[int, int], **save) -> torch.Tensor:
    """Image 10 of train replaced by this file; what the loader makes of it, [3, H, W]."""
    train = good()
    train["images"][1] |= {"file_name": name, "width": size[0], "height": size[1]}
    write(root, train=train)
    image.save(root / "train2017" / name, **save)
    pixels = load_folder(root).splits["train"][0][0]
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, size[1], size[0])
    return pixels


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
    assert folder.report.warnings == []


def test_evaluation_dict_keeps_the_crowd_and_fills_fields(tmp_path):
    annotations = load_folder(write(tmp_path)).splits["val"].annotations
    assert annotations["annotations"] == [
        {"id": 1, "image_id": 10, "category_id": 3, "bbox": [2.5, 1, 4, 2], "area": 5.5, "iscrowd": 0, "source_id": 0},
        {"id": 2, "image_id": 20, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0, "source_id": 7},
        {"id": 3, "image_id": 20, "category_id": 3, "bbox": [0, 0, 12, 8], "area": 50, "iscrowd": 1, "source_id": 9},
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
    assert "area_cuts" in broken(write(tmp_path, train=good() | {"info": {"area_cuts": "small"}}))


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


# ---- pixels


def test_grey_and_bilevel(tmp_path):
    assert (only_image(tmp_path, Image.new("L", (5, 4), 77), "x.png", (5, 4)) == 77).all()
    assert (only_image(tmp_path, Image.new("1", (5, 4), 1), "y.png", (5, 4)) == 255).all()


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (16, 8), (0, 255, 255, 0))  # magenta + yellow = red
    pixels = only_image(tmp_path, image, "x.jpg", (16, 8), quality=100)
    assert (pixels[:, 4, 4] - torch.tensor([255, 0, 0])).abs().max() <= 3


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_is_scaled(tmp_path, suffix):
    values = np.array([[0, 257, 32896], [65535, 255, 40000]], dtype=np.uint16)
    image = Image.fromarray(values)
    if suffix == "pgm":
        image = image.convert("I")
    pixels = only_image(tmp_path, image, f"x.{suffix}", (3, 2))
    assert pixels[0].tolist() == [[0, 1, 128], [255, 1, 156]] and (pixels[0] == pixels[2]).all()  # v / 257


def test_palette_and_alpha(tmp_path):
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert only_image(tmp_path, image, "x.png", (4, 3), transparency=b"\x00\x80")[:, 1, 1].tolist() == [
        200,
        100,
        50,
    ]
    pixels = only_image(tmp_path, Image.new("RGBA", (4, 3), (9, 8, 7, 40)), "y.png", (4, 3))
    assert pixels[:, 1, 1].tolist() == [9, 8, 7]


@pytest.mark.parametrize("full", [True, False])
def test_exif_orientation_follows_the_annotation_file(tmp_path, monkeypatch, full):
    """Orientation 6: the raw 12 x 8 frame is shown turned clockwise, its left edge on top, as 8 x 12."""
    monkeypatch.setattr(coco, "FULL_DECODE_LIMIT", 5000 if full else 0)
    image = Image.new("RGB", (12, 8), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = only_image(tmp_path / "raw", image, "x.png", (12, 8), exif=exif)
    assert (raw[:, :, :4] == 255).all() and (raw[:, :, 4:] == 0).all()
    turned = only_image(tmp_path / "turned", image, "x.png", (8, 12), exif=exif)
    assert (turned[:, :4] == 255).all() and (turned[:, 4:] == 0).all()
    exif[0x0112] = 3  # upside down keeps the size, so it is never applied
    flipped = only_image(tmp_path / "flipped", image, "x.png", (12, 8), exif=exif)
    assert (flipped == raw).all()


# ---- boxes that are dropped or clipped, not fatal


def test_degenerate_boxes_are_dropped_and_outsiders_clipped(tmp_path):
    train = good()
    bad = [[1, 1, 0, 2], [1, 1, 2, -1], [float("nan"), 1, 2, 2], [1, 1, float("inf"), 2], [20, 1, 5, 5],
           [10**400, 1, 2, 2], [-4, 0, 4, 3]]  # fmt: skip
    over = [-2, 3, 5, 50]  # -> [0, 3, 3, 5]
    for i, box in enumerate([*bad, over], start=100):
        train["annotations"].append({"id": i, "image_id": 30, "category_id": 3, "bbox": box, "area": 250})
    folder = load_folder(write(tmp_path, train=train))
    counts = folder.report.counts["train"]
    assert (counts["dropped"], counts["clipped"]) == (7, 1)
    assert folder.splits["train"][2][1]["boxes"].tolist() == [[0, 3, 3, 8]]
    last = folder.splits["train"].annotations["annotations"][-1]
    assert last["bbox"] == [0, 3, 3, 5] and last["area"] == 15
    assert "7 dropped, 1 clipped" in folder.report.summary()
    assert "annotation id 100, 101" in folder.report.warnings[0] and "107" in folder.report.warnings[1]


def test_a_box_within_the_image_is_kept_to_the_digit(tmp_path):
    train = good()
    train["annotations"][2]["bbox"] = [0.1, 0.2, 0.3, 0.7]
    annotations = load_folder(write(tmp_path, train=train)).splits["train"].annotations["annotations"]
    assert annotations[0]["bbox"] == [0.1, 0.2, 0.3, 0.7]


# ---- fatal problems


def test_folder_missing_empty_or_a_file(tmp_path):
    text = broken(tmp_path / "none")
    assert "no such folder" in text
    (tmp_path / "void").mkdir()
    assert "empty" in broken(tmp_path / "void") and "annotations/instances_train2017.json" in broken(
        tmp_path / "void"
    )
    (tmp_path / "file").write_text("x")
    assert "is a file" in broken(tmp_path / "file")


def test_annotation_files_missing_unreadable_not_json(tmp_path):
    root = write(tmp_path, train="{'images': ")
    (root / "annotations/instances_val2017.json").unlink()
    text = broken(root)
    assert "instances_val2017.json" in text and "instances_train2017.json is not valid JSON" in text
    (root / "annotations/instances_val2017.json").mkdir()
    assert "instances_val2017.json cannot be read" in broken(root)
    assert "must hold an object" in broken(write(tmp_path / "list", train="[1]"))
    assert "not valid JSON" in broken(write(tmp_path / "deep", train="[" * 100000))


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, 5, {"a": 1}, "gone"])
def test_lists_missing_or_of_a_wrong_type(tmp_path, key, value):
    train = good()
    train[key] = value
    if value == "gone":
        del train[key]
    text = broken(write(tmp_path, train=train))
    assert f"instances_train2017.json: {key} " in text and text.count("\n  ") == 1  # nothing follows from it


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [(k, f, v) for k, fields in {
        "images": ("id", "file_name", "width", "height"), "categories": ("id", "name"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
    }.items() for f in fields for v in ("gone", None, [], {}, True, -1.5)]
    + [("images", "id", "10"), ("images", "id", -1), ("images", "width", 0), ("images", "width", "12"),
       ("annotations", "area", "big"), ("annotations", "area", float("nan")), ("annotations", "area", -1),
       ("annotations", "iscrowd", 2), ("annotations", "iscrowd", "0"), ("annotations", "bbox", [1, 2, 3]),
       ("annotations", "bbox", [1, 2, 3, "4"]), ("annotations", "bbox", [1, 2, 3, None])],
)  # fmt: skip
def test_wrong_or_missing_fields_are_listed(tmp_path, key, field, value):
    train = good()
    entry = train[key][2 if key == "annotations" else 1]
    entry[field] = value
    if value == "gone":
        del entry[field]
    text = broken(write(tmp_path, train=train))
    singular = {"images": "image", "categories": "category", "annotations": "annotation"}[key]
    where = f"{key}[" if field == "id" else f"{singular} id {entry['id']}"
    line = next(line for line in text.splitlines() if f": {field} is " in line)
    assert where in line and "instances_train2017.json" in line
    assert ("is missing" in line) == (value == "gone")


def test_entries_that_are_no_objects(tmp_path):
    train = good()
    train["images"].append(5)
    train["annotations"].insert(0, None)
    text = broken(write(tmp_path, train=train))
    assert "images[3] is 5" in text and "annotations[0] is None" in text


def test_duplicate_and_unknown_ids(tmp_path):
    train = good()
    train["images"][0]["id"] = 10
    train["annotations"][0]["id"] = 7
    train["categories"].append({"id": 3, "name": "again"})
    train["annotations"][2] |= {"image_id": 99, "category_id": 55}
    text = broken(write(tmp_path, train=train))
    for part in ("images[1]: id 10 is used", "annotations[1]: id 7 is used", "categories[2]: id 3 is used",
                 "annotation id 0: image_id 99", "annotation id 0: category_id 55"):  # fmt: skip
        assert part in text, part


def test_image_files_missing_unreadable_truncated(tmp_path):
    root = write(tmp_path)
    (root / "train2017/a.png").unlink()
    (root / "train2017/b.png").write_text("no image")
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "val2017/c.png")
    whole = (root / "val2017/c.png").read_bytes()
    (root / "val2017/c.png").write_bytes(whole[: len(whole) // 2])
    (root / "val2017/b.png").unlink()
    (root / "val2017/b.png").mkdir()
    text = broken(root)
    assert "missing image file (2):" in text and "unreadable image file (2):" in text
    for part in ("train2017/: image id 30: file_name 'a.png'", "train2017/: image id 20: file_name 'b.png'",
                 "val2017/: image id 10: file_name 'c.png'",
                 "val2017/: image id 20: file_name 'b.png'"):  # fmt: skip
        assert part in text, part


def test_a_truncated_file_of_a_large_folder_shows_when_used(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "FULL_DECODE_LIMIT", 5)
    root = write(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "train2017/c.png")
    whole = (root / "train2017/c.png").read_bytes()
    (root / "train2017/c.png").write_bytes(whole[: len(whole) // 2])
    train = load_folder(root).splits["train"]
    with pytest.raises(DataError, match="c.png: image id 10 cannot be read"):
        train[0]
    (root / "train2017/c.png").write_bytes(b"nothing")
    assert "unreadable image file (1)" in broken(root)


def test_floating_point_pixels_have_no_known_range(tmp_path):
    root = write(tmp_path)
    with (root / "train2017/c.png").open("wb") as file:
        Image.new("F", (WIDTH, HEIGHT)).save(file, format="TIFF")
    assert "pixel format 'F' is not supported" in broken(root)


def test_image_size_must_match(tmp_path):
    train = good()
    train["images"][1] |= {"width": HEIGHT, "height": WIDTH}  # swapped, and no EXIF tag to justify it
    text = broken(write(tmp_path, train=train))
    assert "image id 10: file_name 'c.png': the file is 12 x 8, the annotation file says 8 x 12" in text


@pytest.mark.parametrize(
    "name", ["../val2017/a.png", "{root}/train2017/c.png", "link.png", "sub/../c.png", "x\0y"]
)
def test_file_names_must_stay_inside(tmp_path, name):
    train = good()
    train["images"][1]["file_name"] = name = name.format(root=tmp_path)
    root = write(tmp_path, train=train)
    (tmp_path / "train2017/link.png").symlink_to(tmp_path / "val2017/a.png")
    text = broken(root)
    assert (
        "leads out of the image folder (1)" in text or "\0" in name
    ) and f"image id 10: file_name {name!r}" in text


def test_an_image_folder_may_be_a_link_and_names_may_have_folders(tmp_path):
    train = good()
    train["images"][1]["file_name"] = "sub/c.png"
    root = write(tmp_path / "data", train=train)
    (root / "train2017/sub").mkdir()
    (root / "train2017/c.png").rename(root / "train2017/sub/c.png")
    (root / "train2017").rename(tmp_path / "elsewhere")
    (root / "train2017").symlink_to(tmp_path / "elsewhere")
    assert len(load_folder(root).splits["train"]) == 3


def test_missing_image_folder_is_one_problem(tmp_path):
    root = write(tmp_path)
    (root / "val2017").rename(root / "valid")
    text = broken(root)
    assert "1 problem(s)" in text and "missing image folder (1):\n  val2017/" in text


def test_empty_splits(tmp_path):
    text = broken(write(tmp_path, val=good() | {"images": [], "annotations": []}))
    assert "instances_val2017.json: images is an empty list" in text
    crowd_only = good()
    crowd_only["annotations"] = crowd_only["annotations"][:1]
    assert "no usable box to train on" in broken(write(tmp_path, train=crowd_only))
    assert "no usable box to train on" in broken(write(tmp_path, train=good() | {"annotations": []}))
    write(tmp_path, val=good() | {"annotations": []})
    assert load_folder(tmp_path).report.counts["val"]["boxes"] == 0


def test_categories_must_be_those_of_train(tmp_path):
    val, test = good(), good()
    val["categories"][0]["name"] = "mug"
    test["categories"].append({"id": 8, "name": "fork"})
    text = broken(write(tmp_path, val=val, test=test))
    assert "instances_val2017.json: category id 7 is 'mug', in train it is 'cup'" in text
    assert "instances_test2017.json: category id 8 is 'fork', in train it is absent" in text
    assert "2 problem(s)" in text
    swapped = good()
    swapped["categories"].reverse()  # the order of the list does not matter
    assert load_folder(write(tmp_path, val=swapped, test=good())).categories[0].name == "bun"


def test_all_problems_at_once_and_long_lists_cut(tmp_path):
    train, val = good(), good()
    train["annotations"] += [
        {"id": i, "image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]} for i in range(20, 50)
    ]
    train["annotations"][2]["bbox"] = "wide"
    val["images"][0]["file_name"] = "../a.png"
    val["categories"][1]["name"] = "loaf"
    root = write(tmp_path, train=train, val=val, test="nonsense")
    (root / "train2017/b.png").unlink()
    text = broken(root)
    for part in ("unknown id (30):", "  ... and 10 more", "bbox is 'wide'", "'../a.png'", "'loaf'", "'b.png'",
                 "instances_test2017.json is not valid JSON", "35 problem(s)"):  # fmt: skip
        assert part in text, part
    assert text.count("image_id 99") == 20


# ---- real folders


def test_coco_tiny():
    if not (SHARED / "coco-tiny").is_dir():
        pytest.skip("coco-tiny is not here")
    folder = load_folder(SHARED / "coco-tiny")
    assert len(folder.categories) == 80 and folder.image_counts == {"train": 80, "val": 80}
    assert folder.report.counts["train"]["crowds"] == 6 and folder.report.counts["train"]["boxes"] == 699
    train = folder.splits["train"]
    assert sum(len(train[i][1]["labels"]) for i in range(80)) == 699
    assert train.class_names[0] == "person" and train.class_names[79] == "toothbrush"


def test_groceries_load_fast():
    if not (SHARED / "groceries").is_dir():
        pytest.skip("groceries is not here")
    start = time.monotonic()
    folder = load_folder(SHARED / "groceries")
    assert time.monotonic() - start < 15
    assert len(folder.categories) == 25 and folder.image_counts == {"train": 3462, "val": 742}


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
    assert [m.dtype == torch.uint8 and tuple(m.shape) for m in drawn.values()] == [(1, 8, 12), (1, 8, 12), (0, 8, 12)]
    expected = torch.zeros(8, 12, dtype=torch.uint8)
    expected[1:3, 1:3] = 1
    assert torch.equal(drawn[0][0].as_subclass(torch.Tensor), expected)
    expected = torch.zeros(8, 12, dtype=torch.uint8)
    expected[1:5, 2:6] = expected[6:8, 8:10] = 1
    assert torch.equal(drawn[1][0].as_subclass(torch.Tensor), expected)


def test_masks_for_all_boxes_or_for_none(tmp_path):
    split = load_folder(write(tmp_path / "none")).splits["train"]
    assert split.with_masks() is split
    with pytest.raises(DataError, match=r"train2017.json: 1 of 2 boxes have no segmentation, such as annotation id 0\. "):
        with_outlines(tmp_path / "some", id7=[BOX]).with_masks()


@pytest.mark.parametrize("outline", [[[1, 2]], {"counts": [1]}, {"size": [8, 12], "counts": "no"}, [5], {"size": [3, 3], "counts": [9]}])
def test_a_segmentation_that_cannot_be_drawn_is_named(tmp_path, outline):
    split = with_outlines(tmp_path, id7=[BOX], id0=outline).with_masks()
    with pytest.raises(DataError, match="train2017, annotation id 0: segmentation cannot be drawn"):
        split[0]


def test_masks_of_real_photographs_fill_their_boxes():
    if not (SHARED / "coco-tiny").exists():
        pytest.skip("no shared data")
    split = load_folder(SHARED / "coco-tiny").splits["val"].with_masks()
    off = []
    for i in split.with_boxes():
        _, target = split[i]
        for mask, box in zip(target["masks"], target["boxes"], strict=True):
            y, x = torch.where(mask > 0)
            off.append((torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) - box).abs().max() if len(x) else torch.tensor(99))
    assert len(off) > 300 and (torch.stack(off) < 1.5).float().mean() > 0.95
