"""make data: COCO told from what is not, archives, and VOC as a COCO-format folder."""

import errno
import hashlib
import json
import shlex

import pytest
from PIL import Image

from c2dlib.data import published as prepare
from c2dlib.data import validation
from c2dlib.data.badges import make_badges
from c2dlib.data.coco import load_folder
from c2dlib.data.published import check_data
from c2dlib.data.validation import DataError

XML = """<annotation>
<size><width>{w}</width><height>{h}</height><depth>3</depth></size>
{objects}
</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
</object>"""


def voc(root, year, sets):
    """A VOC year: part -> {image name: [(class, box, difficult)]}; images are 40 x 30."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for sub in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for part, images in sets.items():
        (folder / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(images) + "\n")
        for name, rows in images.items():
            colour = f"#{hashlib.sha256(name.encode()).hexdigest()[:6]}"  # of each image another one
            Image.new("RGB", (40, 30), colour).save(folder / "JPEGImages" / f"{name}.jpg")
            objects = "".join(OBJECT.format(name=n, box=b, difficult=d) for n, b, d in rows)
            (folder / "Annotations" / f"{name}.xml").write_text(XML.format(w=40, h=30, objects=objects))
    return folder


@pytest.fixture
def both_years(tmp_path):
    voc(
        tmp_path,
        "2007",
        {
            "trainval": {"000001": [("dog", (1, 1, 40, 30), 0)]},
            "test": {"000002": [("cat", (11, 6, 20, 15), 0), ("cow", (2, 2, 9, 9), 1)], "000003": []},
        },
    )
    voc(
        tmp_path,
        "2012",
        {"trainval": {"2008_000001": [("person", (3, 3, 12, 22), 0), ("dog", (1, 1, 5, 5), 0)]}},
    )
    return tmp_path


def test_a_new_conversion_looks_at_every_image_once(both_years, monkeypatch):
    looked, check = [], validation._check_images
    monkeypatch.setattr(validation, "_check_images", lambda *a: (looked.append(a[0]), check(*a))[1])
    assert check_data(both_years) == check_data(both_years)  # made, then compared and checked
    assert len(looked) == 2


def test_the_command_that_is_printed_is_one_command_whatever_the_folder_is_called(tmp_path):
    root = make_badges(tmp_path / "a b;$(x)", train=2, val=1, test=0)
    (ready,) = (line for line in check_data(root).splitlines() if line.startswith("ready: "))
    assert shlex.split(ready)[1:] == ["make", "reproduce-table1", f"DATA={root}"]


def test_voc_becomes_a_coco_folder(both_years):
    answer = check_data(both_years)
    target = both_years.parent / f"{both_years.name}-coco"
    assert f"ready: make reproduce-table1 DATA={target}" in answer
    folder = load_folder(target)
    assert [c.name for c in folder.categories] == prepare.VOC_NAMES and folder.image_counts == {
        "train": 2,
        "val": 2,
    }
    image, target_of_first = folder.splits["train"][0]
    assert image.shape == (3, 30, 40) and target_of_first["boxes"].tolist() == [
        [0, 0, 40, 30]
    ]  # from 1 and inclusive
    assert target_of_first["labels"].tolist() == [12]  # dog is the twelfth of twenty
    assert folder.splits["train"][1][1]["boxes"].tolist() == [[2, 2, 12, 22], [0, 0, 5, 5]]
    assert folder.splits["val"][0][1]["boxes"].tolist() == [
        [10, 5, 20, 15]
    ]  # the difficult cow is not trained on
    rows = json.loads((target / "annotations/instances_val2017.json").read_text())["annotations"]
    assert [(r["category_id"], r["iscrowd"], r["area"]) for r in rows] == [(8, 0, 100.0), (10, 1, 64.0)]
    assert check_data(both_years) == answer  # a second call copies nothing and gives the same report


def test_voc_without_the_test_set_uses_its_own_val(tmp_path):
    voc(
        tmp_path,
        "2012",
        {"train": {"a": [("dog", (1, 1, 40, 30), 0)]}, "val": {"b": [("cat", (1, 1, 9, 9), 0)]}},
    )
    assert "train: 1 images" in check_data(tmp_path / "VOCdevkit")


@pytest.mark.parametrize(
    "harm, words",
    [
        (lambda f: (f / "Annotations/000001.xml").write_text("<annotation>"), "000001.xml: cannot be read"),
        (lambda f: (f / "JPEGImages/000001.jpg").unlink(), "000001.jpg: the image is missing"),
        (
            lambda f: (f / "Annotations/000001.xml").write_text(XML.format(w=41, h=30, objects="")),
            r"Annotations/000001.xml: size: of .*000001.jpg the file is 40 x 30, .* 41 x 30; restore",
        ),
        (
            lambda f: (f / "JPEGImages/000001.jpg").write_bytes(b"%!PS-Adobe-3.0"),
            "JPEGImages/000001.jpg: cannot be read as an image",
        ),
        (
            lambda f: (f / "ImageSets/Main/test.txt").write_text("000001"),
            "VOCdevkit: cannot be used(.|\n)*train2017/000001.jpg and val2017/(.|\n)*Nothing is written",
        ),
        (
            lambda f: (f / "Annotations/000001.xml").write_text(
                XML.format(w=40, h=30, objects=OBJECT.format(name="dragon", box=(1, 1, 2, 2), difficult=0))
            ),
            "'dragon' is not in list",
        ),
        (lambda f: (f / "ImageSets/Main/trainval.txt").unlink(), "000002"),
    ],
)
def test_a_broken_voc_is_named_and_leaves_no_folder(both_years, harm, words):
    harm(both_years / "VOCdevkit/VOC2007")
    if words == "000002":  # without its trainval list 2007 only tests: 2012 is trained on
        assert "train: 1 images" in check_data(both_years)
        return
    with pytest.raises(DataError, match=words):
        check_data(both_years)
    assert not (both_years.parent / f"{both_years.name}-coco").exists()


@pytest.mark.parametrize("entry", ["../../../evil", "{root}/evil", "..", "sub/evil", "..\\\\evil"])
def test_a_list_entry_that_leaves_the_folder_is_refused(both_years, entry):
    """Nothing outside the target is written, even where the image and its XML exist."""
    entry = entry.format(root=both_years)
    year = both_years / "VOCdevkit/VOC2007"
    for folder, end in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        source = year / folder / f"000001.{end}"
        (year / folder / "sub").mkdir()
        for place in (year / folder / f"{entry}.{end}",):
            if place.parent.is_dir() and not place.exists():
                place.write_bytes(source.read_bytes())
    mine = both_years.parent / "evil.jpg"
    mine.write_text("mine")
    before = {p: p.read_bytes() for p in both_years.parent.rglob("*") if p.is_file()}
    (year / "ImageSets/Main/trainval.txt").write_text(f"000001\n{entry}\n")
    with pytest.raises(DataError, match="trainval.txt: '.*' leads out of the folder of images"):
        check_data(both_years)
    after = {p: p.read_bytes() for p in both_years.parent.rglob("*") if p.is_file()}
    assert {p for p in before if p.name != "trainval.txt" and before[p] != after[p]} == set()
    assert set(after) == set(before)


@pytest.mark.parametrize("harm", ["annotations", "image", "more", "less", "file", "link"])
def test_a_folder_that_is_there_is_never_written_into(both_years, harm):
    target = both_years.parent / f"{both_years.name}-coco"
    if harm == "file":
        target.write_text("mine")
    elif harm == "link":
        target.symlink_to(both_years / "nowhere")
    else:
        check_data(both_years)
        image = target / "train2017/000001.jpg"
        if harm == "annotations":
            (target / "annotations/instances_val2017.json").write_text("{}")
        elif harm == "more":
            (target / "val2017/mine.jpg").write_text("mine")
        else:
            image.unlink()
            if harm == "image":  # another one of the same size
                image.write_bytes((both_years / "VOCdevkit/VOC2007/JPEGImages/000001.jpg").read_bytes()[::-1])

    def state():
        return {p: p.is_file() and p.read_bytes() for p in (target, *target.rglob("*"))}

    before = state()
    with pytest.raises(DataError, match=f"{target}: is .*(and run again|delete it)"):
        check_data(both_years)
    assert state() == before


def test_an_empty_folder_may_be_there(both_years):
    target = both_years.parent / f"{both_years.name}-coco"
    target.mkdir()
    assert "ready" in check_data(both_years)
    assert not list(both_years.parent.glob(f".{target.name}*"))


def test_an_interrupted_conversion_leaves_no_folder(both_years, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("os.link", "shutil.copyfile"):
        monkeypatch.setattr(f"c2dlib.data.published.{name}", full)
    target = both_years.parent / f"{both_years.name}-coco"
    with pytest.raises(OSError, match=f"cannot write {target}: no space left"):
        check_data(both_years)
    assert not target.exists() and not list(both_years.parent.glob(f".{target.name}*"))


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize(
    "file, content, words",
    [
        (
            "Annotations/000001.xml",
            XML.format(w="inf", h=30, objects=""),
            "size/width is 'inf', must be a num",
        ),
        ("Annotations/000001.xml", XML.format(w=40, h="", objects=""), "size/height is '', must be a number"),
        ("Annotations/000001.xml", "<annotation/>", "size/width is missing"),
        (
            "Annotations/000001.xml",
            XML.format(w=40, h=30, objects=OBJECT.format(name="dog", box=(1, "nan", 2, 2), difficult=0)),
            "bndbox/ymin is 'nan', must be a number",
        ),
        (
            "Annotations/000001.xml",
            f'<!DOCTYPE a [<!ENTITY l0 "lol">{LAUGHS}]>' + XML.format(w="&l9;", h=30, objects=""),
            "DTDForbidden",
        ),
        (
            "Annotations/000001.xml",
            '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + XML.format(w="&f;", h=30, objects=""),
            "DTDForbidden",
        ),
        ("Annotations/000001.xml", '<?xml version="1.0" encoding="none"?><a/>', "unknown encoding"),
        ("ImageSets/Main/trainval.txt", b"000001\n\xe9\n", "cannot be read as VOC's list .*utf-8"),
        ("ImageSets/Main/trainval.txt", "000001\n000001\n", "the image 000001 is listed twice"),
        ("ImageSets/Main/test.txt", "\n", "no image is listed"),
        (
            "Annotations/000001.xml",
            XML.format(w="40.5", h=30, objects=""),
            "width is 40.5, must be a whole number",
        ),
        ("Annotations/000001.xml", XML.format(w="4_0", h=30, objects=""), "width is '4_0', must be a number"),
        (
            "Annotations/000001.xml",
            XML.format(w="40</width><width>41", h=30, objects=""),
            "size/width is there 2 times",
        ),
        (
            "Annotations/000001.xml",
            XML.format(
                w=40, h=30, objects=OBJECT.format(name="dog</name><name>cat", box=(1, 1, 2, 2), difficult=0)
            ),
            "name is there 2 times",
        ),
        (
            "Annotations/000001.xml",
            XML.format(w=40, h=30, objects=OBJECT.format(name="dog", box=(1, 1, 2, 2), difficult="yes")),
            "difficult is 'yes', must be 0 or 1",
        ),
        (
            "Annotations/000001.xml",
            XML.format(w=40, h=30, objects=OBJECT.format(name="dog", box=(9, 1, 3, 2), difficult=0)),
            "bndbox: xmin is 9.0, xmax is 3.0: no box in an image",
        ),
        (
            "Annotations/000001.xml",
            XML.format(w=40, h=30, objects=OBJECT.format(name="dog", box=(1, 1, 2, "1e308"), difficult=0)),
            "bndbox: ymin is 1.0, ymax is 1e.308: no box in an image",
        ),
    ],
)
def test_damaged_lists_and_annotations_are_named(both_years, file, content, words):
    path = both_years / "VOCdevkit/VOC2007" / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"(?s){path}.*: .*{words}"):
        check_data(both_years)
    assert not (both_years.parent / f"{both_years.name}-coco").exists()


def test_a_voc_without_training_images_is_named(both_years):
    lists = both_years / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt"
    for year in ("2007", "2012"):
        (both_years / f"VOCdevkit/VOC{year}/ImageSets/Main/trainval.txt").unlink()
    with pytest.raises(DataError, match=f"{lists}: no such list"):
        check_data(both_years)


def test_what_is_not_there_is_said_with_where_to_get_it(tmp_path):
    with pytest.raises(DataError) as error:
        check_data(tmp_path / "nowhere")
    for words in (
        "no such folder",
        "http://images.cocodataset.org/zips/train2017.zip",
        "cced6f7f71b7629ddf16f17bbcfab6b2",
        "VOCtest_06-Nov-2007.tar",
    ):
        assert words in str(error.value)


def test_archives_are_checked_before_they_are_unpacked(tmp_path, monkeypatch):
    content = b"not really a zip"
    (tmp_path / "val2017.zip").write_bytes(content)
    with pytest.raises(
        DataError, match="val2017.zip: 16 bytes, published are 815,585,330: download it again"
    ):
        check_data(tmp_path)
    monkeypatch.setattr(prepare, "ARCHIVES", {"zips/val2017.zip": (16, hashlib.md5(content).hexdigest())})
    with pytest.raises(DataError, match="whole .*unpack it here: unzip val2017.zip"):
        check_data(tmp_path)
    monkeypatch.setattr(prepare, "ARCHIVES", {"zips/val2017.zip": (16, "0" * 32)})
    with pytest.raises(DataError, match="its md5 is not 0000"):
        check_data(tmp_path)


def test_coco_is_told_from_other_folders(tmp_path, monkeypatch):
    root = make_badges(tmp_path / "badges", train=2, val=2, test=0)
    assert "published" not in check_data(root)  # other classes: nobody claims it is COCO
    names = {c.name for c in load_folder(root).categories}
    monkeypatch.setattr(prepare, "COCO_NAMES", names)
    assert check_data(root).count("not the published one (2 images") == 2
    hashes = {
        s: hashlib.sha256((root / f"annotations/instances_{s}2017.json").read_bytes()).hexdigest()
        for s in ("train", "val")
    }
    monkeypatch.setattr(prepare, "PUBLISHED", {s: (h, 2, 9) for s, h in hashes.items()})
    assert check_data(root).count("as published (2 images, 9 annotations)") == 2


def test_coco_has_eighty_classes():
    assert len(prepare.COCO_NAMES) == 80 and {"person", "toothbrush", "hair drier"} <= prepare.COCO_NAMES
    assert len(prepare.VOC_NAMES) == 20 and prepare.VOC_NAMES == sorted(prepare.VOC_NAMES)


def test_real_coco_images(shared):
    assert check_data(shared / "data" / "coco-tiny").count("not the published one (80 images") == 2
