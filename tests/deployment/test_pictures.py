"""A student on pictures: what is found, how it is drawn and listed, how pictures are named, what is kept."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from c2dlib.config.experiment import Experiment
from c2dlib.data.coco import Category
from c2dlib.data.validation import DataError
from c2dlib.deployment.pictures import class_colour, detect_on, draw, find_pictures, summary
from c2dlib.deployment.student import Checkpoint, read_picture
from c2dlib.files import write_whole


class Fixed(nn.Module):
    """Finds the same three boxes on every picture but black ones, and one more of label 0, no class."""

    def forward(self, images):
        count = 4 if images[0].max() > 0 else 0
        boxes = torch.tensor([[10.0, 20, 40, 60], [50, 30, 90, 70], [5, 5, 15, 15], [0, 0, 99, 79]])
        scores, labels = torch.tensor([0.31, 0.9, 0.2, 0.95]), torch.tensor([1, 2, 2, 0])
        return [{"boxes": boxes[:count], "scores": scores[:count], "labels": labels[:count]}]


@pytest.fixture
def student() -> Checkpoint:
    return Checkpoint(Fixed(), Experiment(), [Category(3, "cat"), Category(7, "dog")], (32, 96))


def picture(path: Path, colour="white") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80), colour).save(path)
    return path


def test_boxes_above_the_threshold_are_listed_and_drawn_in_their_class_colour(student, tmp_path):
    path = picture(tmp_path / "a.jpg")
    (found,) = detect_on(student, [path], tmp_path / "out", 0.31)
    assert found.shown == [
        {"class": "dog", "score": 0.9, "bbox": [50, 30, 40, 40]},
        {"class": "cat", "score": 0.31, "bbox": [10, 20, 30, 40]},
    ]
    assert json.loads((tmp_path / "out/detections.json").read_text()) == {str(path): found.shown}
    drawn = (255 * read_picture(tmp_path / "out/a.png")).round().int()
    assert drawn.shape == (3, 80, 100)
    for label, (x, y) in ((0, (10, 50)), (1, (90, 50))):  # on the left side of the cat, the right of the dog
        assert drawn[:, y, x].tolist() == list(class_colour(label))
    assert drawn[:, 75, 95].tolist() == [255, 255, 255]


def test_the_highest_score_is_told_where_nothing_is_shown(student, tmp_path):
    paths = [picture(tmp_path / "a.jpg"), picture(tmp_path / "b.jpg", "black")]
    found = detect_on(student, paths, tmp_path / "out", 0.95)
    assert summary(found, 0.95).splitlines() == [
        f"{paths[0]}: 0 boxes above 0.95, the highest is 0.90 (dog)",
        f"{paths[1]}: 0 boxes above 0.95, and none below it",
    ]
    assert summary(detect_on(student, paths[:1], tmp_path / "out", 0.1), 0.1).endswith(
        "a.jpg: 3 boxes above 0.10: 2 dog, 1 cat"
    )
    assert summary(found, 0.95, shown=1).splitlines()[1:] == [
        "... and 1 pictures more",
        "0 boxes above 0.95 on 2 pictures, none on 2 of them, where the highest is 0.90 (dog)",
    ]


def test_a_pipe_and_a_folder_with_the_name_of_a_picture_are_left_out(tmp_path):
    inside = picture(tmp_path / "x/c.jpg/a.jpg")
    os.mkfifo(tmp_path / "x/b.jpg")
    assert list(find_pictures([tmp_path / "x"], tmp_path / "out")) == [inside]


def test_folders_patterns_and_files(tmp_path, monkeypatch):
    for name in ("x/a.jpg", "x/deep/a.png", "x/b.JPG", "x/notes.txt", "y/c.webp", "y/d.png"):
        picture(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    out = Path("out")
    assert find_pictures(["x", "y/*.png"], out) == {
        Path("x/a.jpg"): out / "a.png",
        Path("x/b.JPG"): out / "b.png",
        Path("x/deep/a.png"): out / "deep/a.png",
        Path("y/d.png"): out / "d.png",
    }
    picture(tmp_path / "x/a.png")
    both = find_pictures(["x"], out)  # two files that differ in their suffix alone
    assert (both[Path("x/a.jpg")], both[Path("x/a.png")]) == (out / "a.jpg.png", out / "a.png.png")
    assert find_pictures(["x/deep"], Path("x/deep/out")).keys() == {Path("x/deep/a.png")}
    picture(tmp_path / "x/deep/out/a.png")
    assert find_pictures(["x/deep"], Path("x/deep/out")).keys() == {Path("x/deep/a.png")}
    for nothing in ("z", "y/*.jpg", "x/deep/b.png"):
        with pytest.raises(DataError, match="no such picture"):
            find_pictures([nothing], out)


def test_pictures_that_cannot_be_used_leave_nothing(student, tmp_path):
    picture(tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match="text.jpg: cannot be read as a picture"):
        detect_on(student, [tmp_path / "good.jpg", tmp_path / "text.jpg"], tmp_path / "out", 0.5)
    same = [picture(tmp_path / sub / "same.png") for sub in ("a", "b")]
    with pytest.raises(DataError, match="several pictures would be drawn into same.png"):
        detect_on(student, same, tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "pictures, out, words",
    [
        (["mine/train1.png"], "mine", "mine/train1.png, which is one of the pictures"),
        (["train1.png"], ".", "train1.png, which is one of the pictures"),
        (["mine/train1.png"], "link", "link/train1.png, which is one of the pictures"),
        (["link/train1.png"], "mine", "mine/train1.png, which is one of the pictures"),
        (["ABSOLUTE/mine/train1.png"], "mine", "mine/train1.png, which is one of the pictures"),
        (["mine/train1.png"], "ABSOLUTE/mine", "mine/train1.png, which is one of the pictures"),
        (["photos/val2017"], "photos/val2017", "photos/val2017/b.png, which is one of the pictures"),
        (["photos/val2017/*.png"], "photos/val2017", "photos/val2017/b.png, which is one of the pictures"),
        (["photos"], "photos", "photos/val2017/b.png, which is one of the pictures"),
        (["mine/a.jpg"], "mine", "mine/a.png: is there already, and detect did not write it"),
        (["mine/a.jpg"], "linked", "linked/a.png: is there already, and detect did not write it"),
        (["mine/a.jpg"], "listed", "listed/detections.json: is there already, and detect did not write it"),
        (["mine/a.jpg"], "folders", "folders/a.png: is there already, and detect did not write it"),
    ],
)
def test_no_file_is_replaced_that_detect_did_not_write(student, tmp_path, monkeypatch, pictures, out, words):
    for name in ("mine/train1.png", "mine/a.jpg", "mine/a.png", "photos/val2017/b.png", "train1.png"):
        picture(tmp_path / name)
    for name in ("linked", "listed", "folders/a.png"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "linked/a.png").symlink_to(tmp_path / "photos/val2017/b.png")
    (tmp_path / "listed/detections.json").write_text('{"a.jpg": "my notes"}')
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    given = [name.replace("ABSOLUTE", str(tmp_path)) for name in pictures]
    with pytest.raises((DataError, FileExistsError)) as error:
        detect_on(student, given, Path(out.replace("ABSOLUTE", str(tmp_path))), 0.5)
    assert words in str(error.value) and "Nothing was written" in str(error.value)
    assert contents(tmp_path) == before and (tmp_path / "linked/a.png").is_symlink()


@pytest.mark.parametrize(
    "listed",
    [
        pytest.param("[" * 99999, id="deep"),
        "",
        "{}",
        "[]",
        "1",
        '{"a": 1}',
        '{\n "a": [\n  1\n ]\n}',
        '{"a": []}',
    ],
)
def test_a_list_that_detect_did_not_write_is_kept(student, tmp_path, listed):
    out = tmp_path / "out"
    out.mkdir()
    (out / "detections.json").write_text(listed)
    with pytest.raises(FileExistsError, match="detections.json: is there already"):
        detect_on(student, [picture(tmp_path / "a.jpg")], out, 0.5)
    assert contents(out) == {out / "detections.json": listed.encode()}


def test_the_same_call_again_replaces_its_own_files(student, tmp_path, monkeypatch):
    """Also in the folder of the pictures, above it and below it: drawn copies are not detected on."""
    monkeypatch.chdir(tmp_path)
    paths = [picture(tmp_path / name) for name in ("mine/a.jpg", "mine/deep/b.jpg")]
    before = contents(tmp_path)
    for out in ("boxes", "mine", ".", "mine/boxes"):
        for threshold in (0.5, 0.1):
            for name in (".detections.json.abcdefgh.tmp", "deep/.b.png.abcdefgh.tmp"):
                write_whole(Path(out) / name, "of a killed process")
            found = detect_on(student, ["mine"], Path(out), threshold)
            assert [one.path for one in found] == [Path("mine/a.jpg"), Path("mine/deep/b.jpg")]
        listed = json.loads((Path(out) / "detections.json").read_text())
        assert not list(tmp_path.rglob("*.tmp"))
        assert [len(shown) for shown in listed.values()] == [3, 3]
    assert {path: path.read_bytes() for path in paths} == before


def test_names_that_differ_in_case_alone_have_no_common_copy(student, tmp_path):
    """Some disks do not tell them apart."""
    picture(tmp_path / "x/a.jpg")
    if (tmp_path / "x/A.JPG").exists():
        pytest.skip("this disk does not tell them apart")
    picture(tmp_path / "x/A.png")
    copies = find_pictures([tmp_path / "x"], tmp_path / "out")
    assert sorted(os.path.relpath(copy, tmp_path) for copy in copies.values()) == [
        "out/A.png.png",
        "out/a.jpg.png",
    ]
    picture(tmp_path / "x/A.JPG")
    with pytest.raises(DataError, match="several pictures would be drawn into A.JPG.png, a.jpg.png"):
        detect_on(student, [tmp_path / "x"], tmp_path / "out", 0.5)
    assert not (tmp_path / "out").exists()


def test_classes_have_colours_of_their_own_and_texts_stay_inside():
    colours = [class_colour(i) for i in range(20)]
    assert colours[0] == (0xE6, 0x19, 0x4B) == class_colour(20) and len(set(colours)) == 20
    white = torch.ones(3, 60, 100)
    drawn = draw(white, [([80.0, 1.0, 15.0, 40.0], "a long name 0.99", (200, 0, 0))])
    text = [x for x in range(100) for y in range(2, 10) if drawn.getpixel((x, y)) == (200, 0, 0)]
    assert min(text) < 60  # moved to the left, so that its end is seen
