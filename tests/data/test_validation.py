"""Validation of COCO-format folders: each test breaks one thing in a good folder."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2dlib.data import validation
from c2dlib.data.coco import load_folder
from c2dlib.data.validation import DataError
from c2dlib.files import sha256
from c2dlib.workspace import open_workspace
from tests.data.test_coco import HEIGHT, WIDTH, good, write


def broken(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_folder(root)
    text = str(caught.value)
    assert text.startswith(str(root)) and "What to do: " in text.splitlines()[-1]
    return text


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


def test_one_file_under_two_ids_and_one_name_of_two_classes(tmp_path):
    train = good()
    train["images"][0]["file_name"] = "./c.png"  # which is image 10's
    train["categories"][0]["name"] = "bun "
    text = broken(write(tmp_path, train=train, val=good() | {"categories": train["categories"]}))
    file = "annotations/instances_train2017.json"
    assert (
        f"duplicate file_name (1):\n  {file}: image id 30: file_name './c.png' is also that of id 10" in text
    )
    assert f"{file}: category id 7: name 'bun ' is also that of id 3" in text


@pytest.mark.parametrize(
    "where, words",
    [
        ('"bbox": [1, 2, 3, 4]', "an object with id 7 holds 'bbox' twice"),
        ('"name": "cup"', "an object with id 7 holds 'name' twice"),
        ('"file_name": "c.png"', "an object with id 10 holds 'file_name' twice"),
        ('"id": 10', "an object with id 10 holds 'id' twice"),
        (
            '"categories": []',
            'an object with keys ["annotations", "categories", "images"] holds',
        ),
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path, where, words):
    text = json.dumps(good())
    if "categories" in where:
        text = text.replace("{", "{" + where + ", ", 1)
    else:
        assert text.count(where) == 1
        text = text.replace(where, f"{where}, {where}")
    said = broken(write(tmp_path, train=text))
    assert f"duplicate key (1):\n  annotations/instances_train2017.json: {words}" in said


def test_a_user_that_does_not_exist_is_no_traceback():
    with pytest.raises(DataError, match="~nobody-of-this-name/data: no such folder"):
        load_folder("~nobody-of-this-name/data")


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
    monkeypatch.setattr(validation, "FULL_DECODE_LIMIT", 5)
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


@pytest.mark.parametrize("name", ["../val2017/a.png", "{root}/train2017/c.png", "sub/../c.png", "x\0y"])
def test_file_names_must_stay_inside(tmp_path, name):
    train = good()
    train["images"][1]["file_name"] = name = name.format(root=tmp_path)
    root = write(tmp_path, train=train)
    text = broken(root)
    assert (
        "file_name leads out of the image folder (1)" in text or "\0" in name
    ) and f"image id 10: file_name {name!r}" in text


@pytest.mark.parametrize("name", ["link.png", "folder/a.png"])
def test_a_link_to_outside_the_image_folder_is_named_as_one(tmp_path, name):
    train = good()
    train["images"][1]["file_name"] = name
    root = write(tmp_path, train=train)
    (tmp_path / "train2017/link.png").symlink_to(tmp_path / "val2017/a.png")
    (tmp_path / "train2017/folder").symlink_to(tmp_path / "val2017")
    text = broken(root)
    assert "link that leads out of the image folder (1)" in text and "file_name leads out" not in text
    assert f"image id 10: file_name {name!r}: the file, or a folder in its name, is a link" in text
    assert "copy the file there, or make train2017/ as a whole a link" in text


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


@pytest.mark.parametrize("cuts", ["small", [1], [96, 32], [0, 5], [1, "2"], [1, 10**400]])
def test_area_cuts_are_two_rising_numbers(tmp_path, cuts):
    assert "area_cuts" in broken(write(tmp_path, train=good() | {"info": {"area_cuts": cuts}}))


def test_images_are_not_looked_at_twice(tmp_path):
    root = write(tmp_path)
    (root / "train2017/a.png").unlink()
    assert load_folder(root, check_images=False).image_counts == {"train": 3, "val": 3}


# ---- the same image in two splits, and a test split that is not whole


def test_the_same_image_in_two_splits_is_refused(tmp_path):
    root = write(tmp_path, test=good())
    noise = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for file in (
        "train2017/c.png",
        "train2017/b.png",
        "test2017/a.png",
    ):  # twice in train: that alone is a warning
        Image.fromarray(noise).save(root / file)
    text = broken(root)
    assert "1 problem(s)" in text and "the same image in two splits (1):" in text
    assert "train2017/c.png and test2017/a.png have the same content: remove the image" in text
    assert load_folder(root, check_images=False).image_counts["test"] == 3  # not part of the fast path
    Image.fromarray(255 - noise).save(root / "test2017/a.png")
    twice = "1 image(s) of train are there twice, with the same content: train2017/c.png and train2017/b.png"
    assert twice in load_folder(root).report.warnings
    (root / "train2017/b.png").unlink()
    (root / "train2017/b.png").symlink_to("c.png")
    assert twice in load_folder(root).report.warnings
    (root / "train2017/b.png").unlink()
    Image.fromarray(noise // 2).save(root / "train2017/b.png")
    assert not [w for w in load_folder(root).report.warnings if "of train" in w]


def test_only_files_of_equal_size_are_compared(tmp_path, monkeypatch):
    root = write(tmp_path)
    for i, path in enumerate(sorted(root.glob("*2017/*.png"))):  # a PNG may be followed by any bytes
        path.write_bytes(path.read_bytes() + bytes(i))
    same_size = root / "val2017/a.png"
    same_size.write_bytes((root / "train2017/a.png").read_bytes()[:-1] + bytes(1))
    read = []
    monkeypatch.setattr(validation, "_content_hash", lambda path: read.append(path.name) or str(path))
    load_folder(root)
    assert read == ["a.png", "a.png"]


def test_overlaps_of_coco_as_published_are_a_warning(tmp_path, monkeypatch):
    root = write(tmp_path)
    for file in ("a.png", "b.png"):
        (root / "val2017" / file).write_bytes((root / "train2017/a.png").read_bytes())
    (root / "test2017").mkdir()
    (root / "test2017/1.png").write_bytes(b"x")
    assert "the same image in two splits (1)" in broken(root)
    hashes = {
        split: sha256((root / f"annotations/instances_{split}2017.json").read_bytes())
        for split in ("train", "val")
    }
    monkeypatch.setattr(validation, "COCO_2017", hashes)
    warnings = load_folder(root).report.warnings
    assert [w for w in warnings if "1 image(s) are in two splits of COCO as published: train2017/" in w]
    assert [w for w in warnings if "test2017/ is not used" in w]


def test_a_test_split_without_its_folder_or_its_annotations(tmp_path):
    root = write(tmp_path, test=good())
    (root / "test2017").rename(root / "away")
    assert "missing image folder (1):\n  test2017/" in broken(root)
    (root / "away").rename(root / "test2017")
    (root / "annotations/instances_test2017.json").unlink()
    text = broken(root)
    assert "missing annotation file (1):\n  annotations/instances_test2017.json: add it for test2017/" in text


def test_the_shared_data_sets_have_no_overlap(shared):
    for name in ("coco-tiny", "groceries"):
        assert not [w for w in load_folder(shared / "data" / name).report.warnings if "two splits" in w]


def looked_at(root: Path, cache: Path, monkeypatch) -> int:
    """How many image files are looked at as a folder is loaded."""
    names = []

    def counted(folder, resolved_folder, decode, entry):
        names.append(entry["file_name"])
        return problem(folder, resolved_folder, decode, entry)

    problem = validation._image_problem
    with monkeypatch.context() as patch:
        patch.setattr(validation, "_image_problem", counted)
        load_folder(root, cache=cache)
    return len(names)


@pytest.fixture
def known(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A folder without problems whose images were looked at, and where that is kept."""
    root, cache = write(tmp_path / "shop"), tmp_path / "cache"
    assert looked_at(root, cache, monkeypatch) == 6
    return root, cache


def test_images_that_did_not_change_are_looked_at_once(known, monkeypatch):
    root, cache = known
    warnings = load_folder(root).report.warnings
    assert looked_at(root, cache, monkeypatch) == 0 and len(warnings) == 2
    assert load_folder(root, cache=cache).report.warnings == warnings
    assert looked_at(root, cache.with_name("other"), monkeypatch) == 6


@pytest.mark.parametrize("change", ["changed", "replaced", "cut", "touched"])
def test_a_file_that_changed_is_looked_at_again(known, monkeypatch, change):
    root, cache = known
    path = root / "val2017/b.png"
    about, content = path.stat(), path.read_bytes()
    if change == "changed":  # no image any more, and of the same size
        path.write_bytes(bytes(len(content)))
    elif change == "replaced":
        other = root / "other"
        other.write_bytes(bytes(len(content)))
        os.replace(other, path)
    elif change == "cut":
        path.write_bytes(content[: len(content) // 2])
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    if change != "touched":
        for _ in range(2):  # what has a problem is not kept
            with pytest.raises(DataError, match=r"val2017/: image id 20: file_name 'b.png'"):
                load_folder(root, cache=cache)
        path.write_bytes(content)
    assert looked_at(root, cache, monkeypatch) == 6 and looked_at(root, cache, monkeypatch) == 0


def test_a_file_that_is_removed_or_added_is_looked_for(known, monkeypatch):
    root, cache = known
    (root / "train2017/a.png").rename(root / "away")
    with pytest.raises(DataError, match=r"missing image file \(1\):\n  train2017/: image id 30"):
        load_folder(root, cache=cache)
    (root / "away").rename(root / "train2017/a.png")
    train = good()
    train["images"].append({"id": 40, "file_name": "d.png", "width": WIDTH, "height": HEIGHT})
    (root / "annotations/instances_train2017.json").write_text(json.dumps(train))
    with pytest.raises(DataError, match="image id 40: file_name 'd.png': no such file"):
        load_folder(root, cache=cache)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "train2017/d.png")
    assert looked_at(root, cache, monkeypatch) == 7 and looked_at(root, cache, monkeypatch) == 0


def test_an_image_that_becomes_one_of_another_split_is_found(known):
    root, cache = known
    (root / "val2017/a.png").write_bytes((root / "train2017/a.png").read_bytes())
    with pytest.raises(DataError, match="the same image in two splits"):
        load_folder(root, cache=cache)


@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: b"{}", lambda c: c[:-9], lambda c: b"\xff" + c])
def test_what_was_kept_of_images_is_written_anew_if_it_is_damaged(known, monkeypatch, damage):
    root, cache = known
    (path,) = cache.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert looked_at(root, cache, monkeypatch) == 6 and path.read_bytes() == content


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    assert looked_at(write(tmp_path / "shop"), tmp_path / "cache", monkeypatch) == 6


def test_a_command_keeps_which_images_were_looked_at(tmp_path, monkeypatch):
    root, runs = write(tmp_path / "shop"), tmp_path / "runs"
    open_workspace("mini", root, tmp_path / "results", runs, "cpu")
    assert looked_at(root, runs / "cache", monkeypatch) == 0
