"""make data NAME=groceries, on a local repository of a few photographs that the test makes."""

import hashlib
import io
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from c2dlib import cli
from c2dlib.data import groceries
from c2dlib.data.coco import load_folder
from c2dlib.data.groceries import Published, make_groceries, parse_boxes, published, read_split
from c2dlib.data.validation import DataError
from c2dlib.records import git_environment

SPLIT = """# split, class, digest, numbers
train beans 000000000000 0 -1 2
train water 000000000000 0
val beans 000000000000 3
test water 000000000000 1
"""
BOXES = {  # photograph -> corners, as in the XML; BEANS0001 is left out, but counted
    "BEANS0000": [(33, 35, 156, 202)],
    "BEANS0001": [(1, 2, 3, 4), (5, 6, 7, 8)],
    "BEANS0002": [(115, 28, 224, 186), (1, 27, 113, 189)],
    "BEANS0003": [(28, 3, 193, 204)],
    "WATER0000": [(9, 9, 19, 29)],
    "WATER0001": [],
}
TRAIN = (
    '{"info":{"description":"5K Groceries for object detection (Freiburg Groceries, boxes by A. '
    'Aleksandrov), 224 px"},"images":[{"id":1,"file_name":"BEANS0000.jpg","width":224,"height":224},'
    '{"id":3,"file_name":"BEANS0002.jpg","width":224,"height":224},'
    '{"id":4,"file_name":"WATER0000.jpg","width":224,"height":224}],"annotations":['
    '{"id":1,"image_id":1,"category_id":1,"bbox":[33.0,35.0,123.0,167.0],"area":20541.0,"iscrowd":0},'
    '{"id":4,"image_id":3,"category_id":1,"bbox":[115.0,28.0,109.0,158.0],"area":17222.0,"iscrowd":0},'
    '{"id":5,"image_id":3,"category_id":1,"bbox":[1.0,27.0,112.0,162.0],"area":18144.0,"iscrowd":0},'
    '{"id":6,"image_id":4,"category_id":2,"bbox":[9.0,9.0,10.0,20.0],"area":200.0,"iscrowd":0}],'
    '"categories":[{"id":1,"name":"beans"},{"id":2,"name":"water"}]}'
)


def xml(corners, size=224) -> str:
    objects = "".join(
        f"<object><name>any</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox></object>"
        for a, b, c, d in corners
    )
    return f"<annotation><size><width>{size}</width><height>{size}</height></size>{objects}</annotation>"


def picture(seed: int, size: int = 224) -> bytes:
    """A smooth PNG."""
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(small).resize((size, size)).save(written, "PNG")
    return written.getvalue()


def git(folder: Path, *arguments: str, given: bytes = b"") -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    environment = git_environment()
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, env=environment, check=True)
    return done.stdout.decode().strip()


def commit(repository: Path) -> str:
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "x")
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path) -> Path:
    """In the layout of the public one: dataset/{train,val}/{images,annotations}/class."""
    root = tmp_path / "repository"
    for i, (name, corners) in enumerate(BOXES.items()):
        part, category = ("val" if i % 2 else "train"), name[:5].lower()
        for folder, ending, content in (
            ("images", "png", picture(i)),
            ("annotations", "xml", xml(corners).encode()),
        ):
            path = root / f"dataset/{part}/{folder}/{category}/{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (root / "dataset/annotations").mkdir()
    (root / "dataset/annotations/BEANS0000.xml").write_text("an older one, not in a class's folder")
    git(tmp_path, "init", "--quiet", str(root))
    return root


@pytest.fixture
def wanted(repository) -> Published:
    separators = {"train": (",", ":"), "val": (", ", ": "), "test": (",", ":")}
    hashes = {"train": hashlib.sha256(TRAIN.encode()).hexdigest()}
    return Published(
        read_split(SPLIT),
        {split: (hashes.get(split, "0" * 64), pair) for split, pair in separators.items()},
        {split: "0" * 64 for split in separators},
        commit(repository),
    )


def test_the_repository_becomes_a_coco_folder(tmp_path, repository, wanted, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a git hook
    target = tmp_path / "some/new place/groceries"
    answer = make_groceries(target, str(repository), wanted)
    assert f"{target}: made from {repository} at {wanted.commit}" in answer
    (ready,) = (line for line in answer.splitlines() if line.startswith("ready: "))
    assert shlex.split(ready)[1:] == ["make", "reproduce-table1", "SCALE=photos", f"DATA={target}"]
    assert "annotations/instances_train2017.json: as published, byte for byte" in answer
    assert (target / "annotations/instances_train2017.json").read_text() == TRAIN
    val = (target / "annotations/instances_val2017.json").read_text()
    assert '"images": [{"id": 1, "file_name": "BEANS0003.jpg", "width": 224, "height": 224}]' in val
    folder = load_folder(target)
    assert folder.image_counts == {"train": 3, "val": 1, "test": 1}
    assert [c.name for c in folder.categories] == ["beans", "water"]
    image, boxes = folder.splits["val"][0]
    assert boxes["boxes"].tolist() == [[28, 3, 193, 204]] and boxes["labels"].tolist() == [1]
    source = np.asarray(Image.open(io.BytesIO(picture(3))), dtype=float)
    assert np.abs(image.permute(1, 2, 0).numpy() - source).mean() < 3  # JPEG of quality 72
    assert sorted(p.name for p in target.iterdir()) == ["annotations", "test2017", "train2017", "val2017"]
    assert sorted(p.name for p in (target / "train2017").iterdir()) == [
        "BEANS0000.jpg",
        "BEANS0002.jpg",
        "WATER0000.jpg",
    ]
    assert [p.name for p in target.parent.iterdir()] == ["groceries"]  # nothing unfinished stays


def test_a_second_call_compares_and_writes_nothing(tmp_path, repository, wanted):
    target = tmp_path / "groceries"
    make_groceries(target, str(repository), wanted)
    state = {p: p.stat().st_mtime_ns for p in target.rglob("*")}
    digests = {split: groceries.images_digest(target / f"{split}2017") for split in wanted.images}
    answer = make_groceries(target, "/no/such/repository", replace(wanted, images=digests))
    assert "is there already; nothing is written" in answer
    assert "pictures: as published, byte for byte" in answer
    assert {p: p.stat().st_mtime_ns for p in target.rglob("*")} == state


def test_what_differs_from_the_published_data_is_said(tmp_path, repository, wanted):
    """Digests of val and test are by hand; those of train hold for one of its classes only."""

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    by_hand = {
        ("train", "water"): digest("WATER0000 9 9 10 20"),
        ("val", "beans"): digest("BEANS0003 28 3 165 201"),
    }
    lines = [
        line._replace(digest=by_hand.get((line.split, line.category), line.digest))
        for line in wanted.photographs
    ]
    other = {split: ("f" * 64, separators) for split, (_, separators) in wanted.annotations.items()}
    wanted = replace(wanted, photographs=lines, annotations=other)
    answer = make_groceries(tmp_path / "groceries", str(repository), wanted)
    assert (
        "train2017.json: not as published: the photographs or boxes of beans differ. Results from it"
        in answer
    )
    assert "val2017.json: the same boxes, classes and sizes as published, written in another form" in answer
    assert "the pictures of train, val, test are not the published ones byte for byte" in answer
    assert "another version of Pillow" in answer and "results slightly" in answer


def test_other_targets_are_refused(tmp_path, repository, wanted):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="mine: holds other files, and nothing is written among them"):
        make_groceries(mine, str(repository), wanted)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file: is a file"):
        make_groceries(tmp_path / "file", str(repository), wanted)
    made = tmp_path / "groceries"
    made.mkdir()  # empty: it may be filled
    make_groceries(made, str(repository), wanted)
    (made / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="holds other files"):
        make_groceries(made, str(repository), wanted)
    assert sorted(p.name for p in mine.iterdir()) == ["thesis.txt"]


def harmed(repository: Path, wanted: Published, harm) -> Published:
    harm(repository / "dataset")
    return replace(wanted, commit=commit(repository))


@pytest.mark.parametrize(
    "harm, words",
    [
        (
            lambda d: (d / "train/images/beans/BEANS0000.png").unlink(),
            r"1 files are missing .*\n  images/beans/BEANS0000.png is missing",
        ),
        (
            lambda d: (d / "val/annotations/beans/BEANS0001.xml").unlink(),
            "annotations/beans/BEANS0001.xml is mis",
        ),
        (
            lambda d: (d / "val/images/beans/BEANS0000.png").write_bytes(picture(99)),
            "dataset/train/images/beans/BEANS0000.png and dataset/val/images/beans/BEANS0000.png differ",
        ),
        (
            lambda d: (d / "train/annotations/beans/BEANS0000.xml").write_text("<annotation>"),
            "train/annotations/beans/BEANS0000.xml: cannot be read as VOC's annotation",
        ),
        (
            lambda d: (d / "train/images/beans/BEANS0000.png").write_bytes(b"GIF89a"),
            "train/images/beans/BEANS0000.png: cannot be read as a picture",
        ),
        (
            lambda d: [
                (d / "train/images/beans/BEANS0000.png").unlink(),
                (d / "train/images/beans/BEANS0000.png").symlink_to("/etc/hostname"),
            ],
            "BEANS0000.png is missing",
        ),
    ],
)
def test_a_repository_that_is_not_whole_leaves_no_folder(tmp_path, repository, wanted, harm, words):
    wanted = harmed(repository, wanted, harm)
    with pytest.raises(DataError, match=words):
        make_groceries(tmp_path / "groceries", str(repository), wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["repository"]


def test_an_interrupt_leaves_no_folder(tmp_path, repository, wanted, monkeypatch):
    def interrupt(*_):
        assert [p for p in tmp_path.iterdir() if p.name.startswith(".groceries-unfinished-")]
        raise KeyboardInterrupt

    monkeypatch.setattr(groceries, "annotation_text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_groceries(tmp_path / "groceries", str(repository), wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["repository"]


@pytest.mark.parametrize("name", ["..", "a\\b"])
def test_names_that_lead_out_are_refused(tmp_path, repository, wanted, name):
    """A tree made by hand: git add would refuse such a name."""
    blob = git(repository, "hash-object", "-w", "--stdin", given=b"x")
    content = b"100644 " + (b"evil.png" if name == ".." else name.encode()) + b"\0" + bytes.fromhex(blob)
    inner = git(repository, "hash-object", "-t", "tree", "-w", "--stdin", "--literally", given=content)
    if name == "..":
        content = b"40000 ..\0" + bytes.fromhex(inner)
        inner = git(repository, "hash-object", "-t", "tree", "-w", "--stdin", "--literally", given=content)
    evil = git(repository, "commit-tree", inner, "-m", "x")
    git(repository, "update-ref", "refs/heads/evil", evil)
    with pytest.raises(DataError, match=r"the file name '.*' leads out of the repository"):
        make_groceries(tmp_path / "groceries", str(repository), replace(wanted, commit=evil))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["repository"]


def test_what_git_cannot_fetch_is_said(tmp_path, repository, wanted, monkeypatch):
    with pytest.raises(
        DataError, match=r"none: commit [0-9a-f]{40} cannot be fetched: .*Check the connection"
    ):
        make_groceries(tmp_path / "groceries", str(tmp_path / "none"), wanted)
    with pytest.raises(DataError, match="commit 0123456789.* cannot be fetched"):
        make_groceries(tmp_path / "groceries", str(repository), replace(wanted, commit=4 * "0123456789"))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match="git is not installed; install it and run again"):
        make_groceries(tmp_path / "groceries", str(repository), wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["repository"]


def test_a_picture_of_another_size_is_resized_and_said(tmp_path, repository, wanted):
    wanted = harmed(
        repository, wanted, lambda d: (d / "train/images/beans/BEANS0000.png").write_bytes(picture(0, 256))
    )
    answer = make_groceries(tmp_path / "groceries", str(repository), wanted)
    assert "1 picture(s) of another size were resized to 224 x 224: BEANS0000" in answer
    with Image.open(tmp_path / "groceries/train2017/BEANS0000.jpg") as image:
        assert image.size == (224, 224)


@pytest.mark.parametrize(
    "content, words",
    [
        (xml([(1, 1, 2, 2)], size=256), "size is 256 x 256, must be 224 x 224"),
        (xml([(1, 1, 225, 2)]), "bndbox 1, 1, 225, 2 is not within 224 x 224"),
        (xml([(5, 1, 5, 2)]), "bndbox 5, 1, 5, 2 is not within"),
        (xml([("x", 1, 5, 2)]), "cannot be read as VOC's annotation"),
        (xml([("nan", 1, 5, 2)]), "bndbox nan, 1, 5, 2 is not within"),
        ("<annotation></annotation>", "cannot be read as VOC's annotation"),
        (
            '<!DOCTYPE a [<!ENTITY x "1">]>' + xml([("&x;", 1, 5, 2)]),
            "cannot be read as VOC's .*DTDForbidden",
        ),
    ],
)
def test_boxes_that_are_not_of_this_data_set(content, words):
    with pytest.raises(DataError, match=f"^a.xml: {words}"):
        parse_boxes(content.encode(), "a.xml")


def test_the_published_split():
    """Counts as in the issue and on the repository's page: 4,947 photographs of 25 classes, six left out."""
    lines = published().photographs
    counts = {s: sum(len(p.names) for p in lines if p.split == s) for s in ("train", "val", "test")}
    assert counts == {"train": 3456, "val": 742, "test": 743} and len(published().categories) == 25
    names = [name for p in lines for name in p.names]
    left_out = [name for p in lines for name in p.left_out]
    assert len(set(names + left_out)) == len(names + left_out) == 4947
    assert left_out == ["CAKE0008", "COFFEE0134", "SPICES0052", "SPICES0151", "SPICES0153", "SPICES0169"]
    assert all(p.names == sorted(p.names) and len(p.digest) == 12 for p in lines)
    assert {"BEANS0003", "BEANS0004", "BEANS0000"} & set(lines[0].names) == {"BEANS0003"}


def test_the_shared_copy_is_as_published(shared):
    answer = make_groceries(shared / "data/groceries")
    assert answer.count("as published, byte for byte") == 4
    notes = [line.split(",")[0] for line in answer.splitlines() if line.startswith("note")]
    assert notes == [  # in the publishers' own images
        "note: 9 image(s) of train are there twice",
        "note: 1 image(s) of test are there twice",
    ]
    for split in ("train", "val", "test"):  # what is compared where a file is not the same byte for byte
        file = shared / f"data/groceries/annotations/instances_{split}2017.json"
        assert groceries._different_classes(file, split, published()) == []


def test_the_command(tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(groceries, "make_groceries", lambda folder: given.append(folder) or "made")
    assert cli.main(["data", "--name", "groceries", "--data", str(tmp_path / "new")]) == 0
    assert given == [str(tmp_path / "new")] and capsys.readouterr().out.endswith("\nmade\n")
    assert cli.main(["data", "--name", "groceries"]) == 2
    assert "into which folder? make data NAME=groceries DATA=groceries" in capsys.readouterr().err
    assert cli.main(["data", "--name", "grocery"]) == 2
    assert "unknown data set 'grocery'. Did you mean groceries?" in capsys.readouterr().err
