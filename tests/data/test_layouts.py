"""Data as people have them: each layout gives what the same data give in COCO's layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hotcoco import COCO
from PIL import Image

from c2dlib.data import layouts
from c2dlib.data.coco import load_folder
from c2dlib.data.layouts import held_out_images, load_data, origin
from c2dlib.data.validation import DataError
from c2dlib.data.yolo import label_file
from c2dlib.workspace import open_workspace

WIDTH, HEIGHT = 40, 20


def picture(path: Path, seed: int, size=(WIDTH, HEIGHT), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def content(folder: Path, count: int, first: int = 0) -> dict:
    """A COCO annotation file of some pictures, which are written into a folder."""
    images, rows = [], []
    for i in range(first, first + count):
        picture(folder / f"{i}.png", i)
        images.append({"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT})
        rows.append({"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 2, 8 + i, 4]})
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": rows, "categories": names}


def write_json(path: Path, value: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def coco(root: Path, val: int = 3) -> Path:
    """COCO's own layout: six training images, some for val."""
    for split, count, first in (("train", 6, 0), ("val", val, 6)):
        if count:
            made = content(root / f"{split}2017", count, first)
            write_json(root / f"annotations/instances_{split}2017.json", made)
    return root


def roboflow(root: Path) -> Path:
    for folder, count, first in (("train", 6, 0), ("valid", 3, 6)):
        write_json(root / folder / "_annotations.coco.json", content(root / folder, count, first))
    return root


def pairs(root: Path) -> Path:
    lines = []
    for split, count, first in (("train", 6, 0), ("val", 3, 6)):
        write_json(root / f"labels-{split}.json", content(root / "photos" / split, count, first))
        lines.append(f"{split}: {{annotations: labels-{split}.json, images: photos/{split}}}")
    (root / "mine.yaml").write_text("\n".join(lines))
    return root / "mine.yaml"


def yolo(root: Path, val: bool = True, **description) -> Path:
    for split, count, first in (("train", 6, 0), *([("val", 3, 6)] if val else [])):
        for i in range(first, first + count):
            picture(root / f"images/{split}/{i}.png", i)
            x, y, w, h = 4, 2, 8 + i, 4
            label = root / f"labels/{split}/{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            numbers = ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT)
            label.write_text(f"{i % 2} " + " ".join(map(str, numbers)) + "\n")
    described = {"names": ["cat", "dog"], "train": "images/train"} | ({"val": "images/val"} if val else {})
    (root / "data.yaml").write_text(yaml.safe_dump(described | description))
    return root


def objects(folder) -> dict:
    """Split -> file name -> labels and boxes of its image."""
    return {
        name: {
            split.annotations["images"][i]["file_name"]: (
                split[i][1]["labels"].tolist(),
                [[round(v, 3) for v in box] for box in split[i][1]["boxes"].tolist()],
            )
            for i in range(len(split))
        }
        for name, split in folder.splits.items()
    }


def refused(data: Path, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_data(data, tmp_path / "made")
    return str(caught.value)


@pytest.mark.parametrize("make", [roboflow, pairs, yolo])
def test_every_layout_gives_what_coco_gives(make, tmp_path):
    expected = load_folder(coco(tmp_path / "coco"))
    folder = load_data(make(tmp_path / "mine"), tmp_path / "made")
    assert objects(folder) == objects(expected)
    assert folder.name == "mine" and [c.name for c in folder.categories] == ["cat", "dog"]
    assert folder.splits["train"][0][0].equal(expected.splits["train"][0][0])
    assert folder.root.is_relative_to(tmp_path / "made") and not folder.report.warnings
    assert set(origin(folder.root)) == {"layout"}


@pytest.mark.parametrize("project", ["pets-abcd", "cat"])  # "cat": also the name of a class
@pytest.mark.parametrize("val", [True, False])
def test_the_category_of_roboflows_project_is_not_a_class(project, val, tmp_path):
    root = roboflow(tmp_path / "mine")
    expected = objects(load_data(root, tmp_path / "made"))
    for file in root.glob("*/_annotations.coco.json"):
        exported = json.loads(file.read_text())
        for category in exported["categories"]:
            category["supercategory"] = project
        exported["categories"].insert(0, {"id": 0, "name": project, "supercategory": "none"})
        write_json(file, exported)
    if not val:
        shutil.rmtree(root / "valid")
    folder = load_data(root, tmp_path / "made")
    assert [c.name for c in folder.categories] == ["cat", "dog"]
    if val:
        assert objects(folder) == expected
    note = f"{root / 'train/_annotations.coco.json'}: category id 0 {project!r} is not a class"
    assert [note in warning for warning in folder.report.warnings].count(True) == 1
    wrong = json.loads((root / "train/_annotations.coco.json").read_text())
    wrong["annotations"][0]["bbox"] = [1, 2, 3]
    write_json(root / "train/_annotations.coco.json", wrong)
    text = refused(root, tmp_path)
    assert f"{root / 'train/_annotations.coco.json'}: annotation id 0: bbox is [1, 2, 3]" in text
    assert "2017" not in text


def test_a_category_with_annotations_stays_a_class_whatever_its_supercategory(tmp_path):
    """And so does every category of another layout than Roboflow's."""
    root = roboflow(tmp_path / "mine")
    for file in root.glob("*/_annotations.coco.json"):
        exported = json.loads(file.read_text())
        exported["categories"][1]["supercategory"] = "cat"
        write_json(file, exported)
    assert [c.name for c in load_data(root, tmp_path / "made").categories] == ["cat", "dog"]
    for file in (coco(tmp_path / "coco") / "annotations").iterdir():
        exported = json.loads(file.read_text())
        exported["categories"][1]["supercategory"] = "fish"
        exported["categories"].append({"id": 3, "name": "fish", "supercategory": "none"})
        write_json(file, exported)
    assert len(load_data(tmp_path / "coco", tmp_path / "made").categories) == 3


def test_a_coco_folder_is_read_where_it_is(tmp_path):
    root = coco(tmp_path / "coco")
    folder = load_data(root, tmp_path / "made")
    assert folder.root == root and folder.annotation_hash == load_folder(root).annotation_hash
    assert not (tmp_path / "made").exists() and origin(root) == {}


def test_the_readers_agree_with_hotcoco_on_photographs(shared, tmp_path):
    """hotcoco writes YOLO labels of COCO photographs; they are read back by it and by this reader."""
    source = load_folder(shared / "data/coco-tiny")
    for split in ("train", "val"):
        annotations = shared / f"data/coco-tiny/annotations/instances_{split}2017.json"
        COCO(str(annotations)).to_yolo(str(tmp_path / "yolo/labels" / split))
        images = tmp_path / "yolo/images" / split
        images.parent.mkdir(parents=True, exist_ok=True)
        images.symlink_to(shared / f"data/coco-tiny/{split}2017")
    names = yaml.safe_load((tmp_path / "yolo/labels/train/data.yaml").read_text())["names"]
    described = {"names": names, "train": "images/train", "val": "images/val"}
    (tmp_path / "yolo/data.yaml").write_text(yaml.safe_dump(described))
    folder = load_data(tmp_path / "yolo", tmp_path / "made")
    assert folder.image_counts == source.image_counts
    for split in ("train", "val"):
        theirs = COCO.from_yolo(
            str(tmp_path / "yolo/labels" / split), str(tmp_path / "yolo/images" / split)
        ).dataset
        ours = folder.splits[split].annotations
        assert len(ours["annotations"]) > 100
        expected = boxes_by_image(theirs)
        for name, (classes, boxes) in boxes_by_image(ours).items():
            assert classes == expected[name][0]
            assert np.allclose(boxes, expected[name][1], atol=0.01)


def boxes_by_image(annotations: dict) -> dict:
    """File name without suffix -> class names and boxes [N, 4] xyxy, clipped to the image, in one order."""
    names = {c["id"]: c["name"] for c in annotations["categories"]}
    by_image = {}
    for image in annotations["images"]:
        rows = [row for row in annotations["annotations"] if row["image_id"] == image["id"]]
        rows.sort(key=lambda row: (names[row["category_id"]], [round(v, 1) for v in row["bbox"]]))
        x, y, w, h = np.reshape([row["bbox"] for row in rows], (-1, 4)).T
        corners = np.stack([x, y, x + w, y + h], 1).clip(0, [image["width"], image["height"]] * 2)
        by_image[Path(image["file_name"]).stem] = [names[row["category_id"]] for row in rows], corners
    return by_image


def test_a_val_split_is_made_by_the_stated_rule(tmp_path):
    root = coco(tmp_path / "coco", val=0)
    folder = load_data(root, tmp_path / "made")
    assert folder.image_counts == {"train": 5, "val": 1}
    assert folder.report.warnings[0].startswith(
        "there is no val split: 1 of the 6 training images are val now"
    )
    assert origin(folder.root)["val_split"] == folder.report.warnings[0]
    held_out = {i["file_name"] for i in folder.splits["val"].annotations["images"]}
    assert held_out == held_out_images([f"{i}.png" for i in range(6)], root / "train2017")
    again = load_data(yolo(tmp_path / "yolo", val=False), tmp_path / "made")
    assert {i["file_name"] for i in again.splits["val"].annotations["images"]} == held_out
    assert len(objects(again)["train"]) == 5


def test_copies_of_an_image_stay_on_one_side(tmp_path):
    for i in range(20):
        picture(tmp_path / f"{i}_jpg.rf.a{i}.png", i)
        picture(tmp_path / f"{i}_jpg.rf.b{i}.png", 100 + i)  # Roboflow's second version of the same picture
        shutil.copy(tmp_path / f"{i}_jpg.rf.a{i}.png", tmp_path / f"copy{i}.png")
    names = [path.name for path in tmp_path.iterdir()]
    held_out = held_out_images(names, tmp_path)
    assert len(held_out) == 12  # a fifth of 60
    for i in range(20):
        group = {f"{i}_jpg.rf.a{i}.png", f"{i}_jpg.rf.b{i}.png", f"copy{i}.png"}
        assert len(group & held_out) in (0, 3)
    assert held_out == held_out_images(reversed(names), tmp_path)


def test_groups_that_share_an_image_stay_on_one_side(tmp_path):
    """a and b have an image of the same content, b and c another one: their other images follow."""
    for i in range(5):
        picture(tmp_path / f"{i}a.rf.1.png", i)
        shutil.copy(tmp_path / f"{i}a.rf.1.png", tmp_path / f"{i}b.rf.1.png")
        picture(tmp_path / f"{i}b.rf.2.png", 100 + i)
        shutil.copy(tmp_path / f"{i}b.rf.2.png", tmp_path / f"{i}c.rf.1.png")
        picture(tmp_path / f"{i}c.rf.2.png", 200 + i)
    held_out = held_out_images([path.name for path in tmp_path.iterdir()], tmp_path)
    assert len(held_out) == 5 and len({name[0] for name in held_out}) == 1


def test_yolo_lines_that_are_wrong_are_named(tmp_path):
    root = yolo(tmp_path / "mine")
    lines = """0 0.5 0.5 0.1 0.1
        2 0.5 0.5 0.1 0.1
        0 0.5 x 0.1 0.1

        1 0.5 0.5 0.1
        0 1.5 0.5 0.1 0.1
        0.5 0.5 0.5 0.1 0.1
        1 nan 0.5 0.1 0.1
        0 0.1 0.1 0.2 0.1 0.2 0.2 0.3
        0 0.5 0.5 0.2_5 0.1
        \u0661 0.5 0.5 0.1 0.1"""
    label = root / "labels/train/2.txt"
    label.write_text(lines)
    (root / "images/val/7.png").write_text("no picture")
    text = refused(root, tmp_path)
    for number, words in {
        2: "class 2, but data.yaml names the classes 0 to 1",
        3: "'x' is not a number",
        5: "4 numbers; a box has 5",
        6: "1.5 is not between 0 and 1",
        7: "class 0.5",
        8: "nan is not a finite number",
        9: "8 numbers",
        10: "'0.2_5' is not a number",
        11: "'\u0661' is not a number",
    }.items():
        assert f"{label}: line {number}: {words}" in text
    assert f"{root / 'images/val/7.png'}: " in text and "instances_" not in text
    assert not (tmp_path / "made").exists()


def test_yolo_polygons_backgrounds_and_repeated_lines(tmp_path):
    root = yolo(tmp_path / "mine")
    (root / "labels/train/0.txt").write_text("1 0.25 0.1 0.5 0.1 0.375 0.6\n1 0.25 0.1 0.5 0.1 0.375 0.6\n")
    (root / "labels/train/1.txt").unlink()
    (root / "labels/train/2.txt").write_text("")
    folder = load_data(root / "data.yaml", tmp_path / "made")
    read = objects(folder)["train"]
    assert read["0.png"] == ([2], [[10, 2, 20, 12]])
    assert read["1.png"] == read["2.png"] == ([], [])
    notes = " ".join(folder.report.warnings)
    assert "1 image(s) without a label file" in notes and "1.png" in notes
    assert "1 label file(s) repeat a line" in notes


def test_yolo_labels_refer_to_the_turned_picture(tmp_path):
    root = yolo(tmp_path / "mine")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "images/train/0.jpg", 0, exif=exif)
    (root / "images/train/0.png").unlink()
    (root / "labels/train/0.txt").write_text("0 0.5 0.5 1 0.5\n")
    folder = load_data(root, tmp_path / "made")
    image, target = folder.splits["train"][0]
    assert image.shape == (3, WIDTH, HEIGHT)
    assert target["boxes"].tolist() == [[0, 10, 20, 30]]
    for mirrored in (2, 3, 4):
        exif[0x0112] = mirrored
        picture(root / "images/train/0.jpg", 0, exif=exif)
        words = f"0.jpg: orientation {mirrored} is not supported; save it upright"
        assert words in refused(root, tmp_path)
    exif[0x0112] = 6
    picture(root / "images/train/0.jpg", 0, size=(20, 20), exif=exif)
    assert "0.jpg: orientation 6 is not supported" in refused(root, tmp_path)
    for none in (0, 9):  # such values turn nothing
        exif[0x0112] = none
        picture(root / "images/train/0.jpg", 0, exif=exif)
        assert load_data(root, tmp_path / "made").splits["train"][0][0].shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"names": ["cat", "cat"]}, "names: cat occurs more than once"),
        ({"nc": 3}, "nc is 3, but there are 2 names"),
        ({"names": {0: "cat", 2: "dog"}}, "must be 0 to 1"),
        ({"names": None}, "names is None"),
        ({"train": "images/trian"}, "data.yaml: train: images/trian: there is no "),
        ({"kpt_shape": [17, 3]}, "key points"),
        ({"train": None}, "YOLO without a train split"),
        ({"train": {"annotations": "a.json", "images": "images"}}, "unknown names; valid: train, val, test"),
    ],
)
def test_descriptions_that_are_wrong_are_named(change, words, tmp_path):
    root = yolo(tmp_path / "mine", **change)
    assert words in refused(root, tmp_path)


def test_lists_of_images_and_roboflows_dots(tmp_path):
    """A txt file that lists images, and ``../train/images`` for a folder beside the description."""
    root = yolo(tmp_path / "mine", train="train.txt", val="../images/val", path="nowhere")
    listed = [f"./images/train/{i}.png" for i in range(4)]
    (root / "train.txt").write_text("\n".join(listed) + "\n")
    folder = load_data(root, tmp_path / "made")
    assert folder.image_counts == {"train": 4, "val": 3}
    (root / "train.txt").write_text("\n".join([*listed, "./images/train/9.png"]))
    assert "train.txt: line 5: no file" in refused(root, tmp_path)


def test_pairs_that_are_wrong_are_named(tmp_path):
    description = pairs(tmp_path / "mine")
    text = description.read_text()
    description.write_text(text.replace("photos/val", "photos/vla"))
    assert f"{description}: val: there is no {description.parent / 'photos/vla'}" in refused(
        description, tmp_path
    )
    description.write_text(text.replace("annotations: labels-val.json, ", ""))
    assert "val: must be {annotations: FILE, images: FOLDER}" in refused(description, tmp_path)
    description.write_text("- a\n")
    assert "must hold `train:`" in refused(description, tmp_path)


def test_problems_are_named_as_the_data_name_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = roboflow(tmp_path / "mine")
    wrong = json.loads((root / "valid/_annotations.coco.json").read_text())
    wrong["annotations"][0]["bbox"] = [1, 2, 3]
    wrong["images"][1]["file_name"] = "gone.png"
    write_json(root / "valid/_annotations.coco.json", wrong)
    text = refused(root, Path("relative"))
    assert text.startswith(f"{root}: cannot be used")
    assert f"{root / 'valid/_annotations.coco.json'}: annotation id 6: bbox is [1, 2, 3]" in text
    assert f"{root / 'valid'}/: image id 7: file_name 'gone.png'" in text
    assert "2017" not in text and "made" not in text


def without_val(root: Path, text: str) -> Path:
    """Roboflow's layout with train only, and this annotation file."""
    made = content(root / "train", 6)
    (root / "train/_annotations.coco.json").write_text(text or json.dumps(made))
    return root


@pytest.mark.parametrize("number", range(1, 6))
def test_an_image_id_used_twice_is_refused_before_a_val_split_is_made(number, tmp_path):
    """Otherwise each of the two images gets the boxes of both, where one is in train and one in val."""
    made = content(tmp_path / "mine/train", 6)
    made["images"][number]["id"] = 0
    made["annotations"] = [row for row in made["annotations"] if row["image_id"] != number]
    text = refused(without_val(tmp_path / "mine", json.dumps(made)), tmp_path)
    file = tmp_path / "mine/train/_annotations.coco.json"
    assert f"{file}: images[{number}]: id 0 is used before" in text and "2017" not in text


@pytest.mark.parametrize(
    "before, after, words",
    [
        ('"category_id": 1', '"category_id": 2, "category_id": 1', "holds 'category_id' twice"),
        ('"image_id": 1,', '"image_id": [1],', "annotation id 1: image_id is [1], must be a whole number"),
        ('{"id": 1,', '{"id": [1],', "images[1]: id is [1], must be a whole number"),
        ('"file_name": "1.png"', '"file_name": 5', "image id 1: file_name is 5, must be a text"),
        ('{"images"', '[' * 9999 + '{"images"', "_annotations.coco.json is not valid JSON: "),
        ('"image_id": 1,', '"image_id": 77,', "annotation id 1: image_id 77 is not in the file's list"),
    ],
)  # fmt: skip
def test_a_file_is_checked_before_a_val_split_is_made(before, after, words, tmp_path):
    text = json.dumps(content(tmp_path / "mine/train", 6)).replace(before, after, 1)
    assert words in refused(without_val(tmp_path / "mine", text), tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("names: {0: cat, 0: dog}\ntrain: images/train", "line 1: 0 is there twice"),
        ("names: {0: cat, 1: dog, 0x1: cow}\ntrain: images/train", "must be 0 to 2, are [0, 1, '0x1']"),
        ("names: [cat, dog]\ntrain: images/val\ntrain: images/train", "line 3: train is there twice"),
        ("train: {annotations: a, images: b, images: c}", "line 1: images is there twice"),
        ("names: [yes, no]\ntrain: images/train", "reads a name as True, which is no text; put"),
        ("names: [cat, null]\ntrain: images/train", "reads a name as None"),
        ("names: {0: cat, true: dog}\ntrain: images/train", "the numbers must be 0 to 1, are [0, True]"),
        ("train: {annotations: a, images: b}\n1: x\nb: y", "unknown 1, b; valid: train, val, test"),
        ("names: " + "[" * 5000, "nested too deeply"),
        ("names: [cat\ntrain: x", "cannot be read as YAML: while parsing"),
        ('names: !!int ""', "cannot be read as YAML: "),
        ("names: [cat, dog]\ntrain: " + "x" * 5000, "train: xxx"),
        ("train: {annotations: " + "x" * 5000 + ", images: images}", "train: there is no "),
        (
            "a: &a [cat, dog]\nnames: *a\ntrain: images/train",
            "line 2: *a is a list or an object; write it out",
        ),
        (
            "a: &a {b: c}\ntrain: {annotations: *a, images: b}",
            "line 2: *a is a list or an object; write it out",
        ),
        ("names: [cat, ' ']\ntrain: images/train", "names: ' ' must be a text that is not empty"),
        ("names: [cat, 'cat ']\ntrain: images/train", "names: cat occurs more than once"),
        (
            "names: [cat, dog]\ntrain: images/train\nval: images/val\nvalid: images/val",
            "val and valid are both",
        ),
        ("names: [cat, dog]\ntrain: images/train\nval: []", "val is [], must be a path"),
        ("names: [cat, dog]\ntrain: images/train\nval: false", "val is False, must be a path"),
        ("names: [cat, dog]\ntrain: [[images/train]]", "train is [['images/train']], must be a path"),
        ("names: [cat, dog]\ntrain: images/train\npath: [a]", "path is ['a'], must be a path"),
    ],
)
def test_yaml_that_cannot_be_used_is_named_in_a_line(text, words, tmp_path):
    root = yolo(tmp_path / "mine")
    (root / "data.yaml").write_text(text)
    message = refused(root, tmp_path)
    assert words in message and str(root / "data.yaml") in message
    assert all("data.yaml" in line for line in message.splitlines()[:1]) and message.count("\n") <= 3


def test_aliases_cannot_fill_the_memory(tmp_path):
    lists = ["&a0 [ha, ha]", *(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
    description = yolo(tmp_path / "mine") / "data.yaml"
    description.write_text(f"names: [{', '.join(lists)}]\ntrain: images/train")
    assert f"{description}: cannot be read as YAML: line 1: *a0 is a list" in refused(description, tmp_path)


def test_names_that_yaml_takes_for_numbers_are_as_they_are_written(tmp_path):
    root = yolo(tmp_path / "mine")
    (root / "data.yaml").write_text("names: [007, 1:30]\ntrain: images/train\nval: &val images/val\nx: *val")
    assert [c.name for c in load_data(root, tmp_path / "made").categories] == ["007", "1:30"]


def test_lists_without_an_image_are_named(tmp_path):
    """An empty list is not taken for a split that is not there."""
    root = yolo(tmp_path / "mine")
    (root / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\nval: val.txt")
    (root / "val.txt").write_text("\n")
    assert "data.yaml: val: val.txt: lists no image" in refused(root, tmp_path)
    (root / "val.txt").write_text("/\n")
    text = refused(root, tmp_path)
    assert f"1 problem(s) found.\nmissing image file (1):\n  {root / 'val.txt'}: line 1: no file /\n" in text


def test_lists_that_are_no_lists_are_named(tmp_path):
    root = yolo(tmp_path / "mine", train="images/train/0.png")
    words = (
        "data.yaml: train: images/train/0.png: must be a folder, or a text file in UTF-8 that lists images"
    )
    assert f"{words}: is an image" in refused(root, tmp_path)
    (root / "list.txt").write_bytes("images/train/0.png\nimages/train/\xe9.png\n".encode("latin1"))
    root = yolo(tmp_path / "mine", train="list.txt")
    assert "train: list.txt: must be a folder, or a text file in UTF-8" in refused(root, tmp_path)
    (root / "list.txt").write_text("x" * 5000)
    assert "list.txt: line 1: no file " in refused(root, tmp_path)


def test_a_folder_or_a_broken_link_is_no_label_file(tmp_path):
    root = yolo(tmp_path / "mine")
    for i in (0, 1):
        (root / f"labels/train/{i}.txt").unlink()
    (root / "labels/train/0.txt").mkdir()
    (root / "labels/train/1.txt").symlink_to(tmp_path / "gone.txt")
    text = refused(root, tmp_path)
    assert "unreadable label file (2)" in text and str(root / "labels/train/0.txt") in text


def test_own_names_are_given_to_what_was_made_here_only(tmp_path):
    """Also where the data's own folders are called as those that are made here."""
    description = pairs(tmp_path / "train2017/mine")
    (tmp_path / "train2017/mine/photos/train/3.png").unlink()
    text = refused(description, tmp_path)
    assert text.startswith(f"{description}: cannot be used")
    assert f"  {tmp_path}/train2017/mine/photos/train/: image id 3: file_name '3.png'" in text


@pytest.mark.parametrize("damaged", [b"", b'{"layout": "YO', b"\xff", b"[]", b"[" * 9999])
def test_what_is_damaged_in_a_folder_made_here_is_written_anew(damaged, tmp_path):
    root = yolo(tmp_path / "mine")
    folder = load_data(root, tmp_path / "made")
    for name in ("layout.json", "annotations/instances_train2017.json"):
        (folder.root / name).write_bytes(damaged)
    left = [folder.root / name for name in (".layout.json.abcdefgh.tmp", "annotations/.x.json.abcdefgh.tmp")]
    for path in left:
        path.write_bytes(damaged)
    again = load_data(root, tmp_path / "made")
    assert objects(again) == objects(folder) and origin(again.root) == {"layout": "YOLO"}
    assert not [path for path in left if path.exists()]


def test_what_is_not_recognised_is_told_every_layout(tmp_path):
    (tmp_path / "mine/photos").mkdir(parents=True)
    text = refused(tmp_path / "mine", tmp_path)
    assert "_annotations.coco.json" in text and "data.yaml" in text and "instances_train2017.json" in text
    for name in ("images", "labels"):
        (tmp_path / "mine" / name).mkdir()
    assert "without a data.yaml" in refused(tmp_path / "mine", tmp_path)


def test_data_that_change_are_read_anew(tmp_path):
    root = yolo(tmp_path / "mine", val=False)
    before = load_data(root, tmp_path / "made")
    names = {i["file_name"] for i in before.splits["val"].annotations["images"]}
    for i in range(6):
        (root / f"images/train/{i}.png").rename(root / f"images/train/new{i}.png")
        (root / f"labels/train/{i}.txt").rename(root / f"labels/train/new{i}.txt")
    after = load_data(root, tmp_path / "made")
    assert after.root == before.root and after.annotation_hash != before.annotation_hash
    assert set(objects(after)["val"]) == {f"new{name}" for name in names}


def test_a_workspace_of_other_layouts_has_the_datas_name(tmp_path):
    workspace, folder = open_workspace(
        "smoke", yolo(tmp_path / "cats"), tmp_path / "results", tmp_path / "runs", "cpu"
    )
    assert workspace.data_name == "cats" and workspace.data == folder.root
    assert label_file(Path("a/images/images/b.jpg")) == Path("a/images/labels/b.txt")
    assert layouts.VAL_SHARE < 0.5
