"""Badges: the same scenes everywhere from a seed, true and tight boxes, a folder that is whole or absent."""

import errno
import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from c2dlib.data import badges
from c2dlib.data.badges import CLASS_NAMES, FAMILIES, SIZE, SPLITS, make_badges, scene

PIXELS = {  # sha256; a change of these is a change of VERSION
    "graded": "677650e0078cdd1f893a9708c8241d62c70a4b115dce2b0d391df601f9fa316c",
    "other": "e721cb6d2da165154133d11c575b56d739c6efe34f796978c790ca5c6497c0fa",
    "merged": "677650e0078cdd1f893a9708c8241d62c70a4b115dce2b0d391df601f9fa316c",  # those of graded
    "crowded": "3f6a0f0efa6ceebf7e28518163ba5e6fdb7fa7acf65be16accf8982b7f9d832c",
}
ANNOTATIONS = "c4258c7dae09bc4af6bc514d9c47ccd5e4c2dc3e6254d1c6ef631cb9a68444e8"


def rng(*entropy):
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def read(root, split):
    return json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())


def pixels(root, split):
    paths = [root / f"{split}2017" / image["file_name"] for image in read(root, split)["images"]]
    return [np.array(Image.open(path)) for path in paths]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_badges(tmp_path_factory.mktemp("badges") / "graded", 12, 6, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_gives_the_same_scenes_on_every_machine(family):
    digest = hashlib.sha256()
    for i in range(8):
        digest.update(scene(rng(0, i), family)[0].tobytes())
    assert digest.hexdigest() == PIXELS[family]


def test_a_seed_gives_the_same_folder(folder, tmp_path):
    text = (folder / "annotations" / "instances_train2017.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == ANNOTATIONS
    again = make_badges(tmp_path / "again", 12, 6, 4)
    assert all(
        (again / p.relative_to(folder)).read_bytes() == p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file()
    )
    few = pixels(make_badges(tmp_path / "few", 3, 0, 0), "train")  # the beginning of a larger set
    assert len(few) == 3 and all(
        np.array_equal(a, b) for a, b in zip(few, pixels(folder, "train"), strict=False)
    )


def test_another_seed_family_or_split_gives_other_images(folder, tmp_path):
    sets = [pixels(folder, split) for split in SPLITS]
    sets.append(pixels(make_badges(tmp_path / "seed", 4, 0, 0, seed=1), "train"))
    sets.append(pixels(make_badges(tmp_path / "other", 4, 0, 0, family="other"), "train"))
    images = [image.tobytes() for images in sets for image in images]
    assert len(set(images)) == len(images) == 12 + 6 + 4 + 4 + 4


def test_the_folder_is_coco(folder):
    image_ids = []
    for split, count in zip(SPLITS, (12, 6, 4), strict=True):
        coco = read(folder, split)
        assert set(coco) == {"info", "licenses", "images", "annotations", "categories"}
        info = coco["info"]
        assert info["area_cuts"] == [34, 46] and info["version"] == badges.VERSION and info["description"]
        assert (info["family"], info["seed"]) == ("graded", 0)
        assert info["images"] == {"train": 12, "val": 6, "test": 4}
        assert [c["id"] for c in coco["categories"]] == list(range(1, 13))
        assert coco["categories"][4] == {"id": 5, "name": "4-arm hub-2", "supercategory": "4-arm"}
        assert len(coco["images"]) == count == len(list((folder / f"{split}2017").iterdir()))
        assert {image.shape for image in pixels(folder, split)} == {(SIZE, SIZE, 3)}
        ids = {image["id"] for image in coco["images"]}
        assert {a["image_id"] for a in coco["annotations"]} == ids
        assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            assert 0 <= x and 0 <= y and x + w <= SIZE and y + h <= SIZE
            assert abs(a["area"] - w * h) < 0.01 and a["iscrowd"] == 0 and 1 <= a["category_id"] <= 12
        image_ids += ids
    assert len(set(image_ids)) == 22


def test_a_split_of_no_images_is_not_written(tmp_path):
    root = make_badges(tmp_path / "b", 2, 1, 0)
    assert sorted(p.name for p in root.iterdir()) == ["annotations", "sha256.json", "train2017", "val2017"]
    assert len(list((root / "annotations").iterdir())) == 2


def test_merged_grades_differ_in_the_annotations_alone(folder, tmp_path):
    merged = make_badges(tmp_path / "merged", 12, 6, 4, family="merged")
    for split in SPLITS:
        graded, four = read(folder, split), read(merged, split)
        assert all(
            np.array_equal(a, b) for a, b in zip(pixels(folder, split), pixels(merged, split), strict=True)
        )
        names = {c["id"]: c["name"] for c in graded["categories"]}
        arms = {c["id"]: c["name"] for c in four["categories"]}
        assert list(arms.values()) == ["3-arm", "4-arm", "5-arm", "6-arm"]
        for a, b in zip(graded["annotations"], four["annotations"], strict=True):
            assert a | {"category_id": 0} == b | {"category_id": 0}
            assert names[a["category_id"]].startswith(arms[b["category_id"]] + " hub")


def test_crowded_scenes_have_longer_bodies_that_cover_one_another():
    sides, shared, numbers = [], 0.0, []
    for i in range(200):
        image, boxes, labels = scene(rng(7, i), "crowded")
        assert boxes.min() >= 0 and boxes.max() <= SIZE and set(labels) <= set(range(4))
        numbers.append(len(labels))
        sides.extend(boxes[:, 2:] - boxes[:, :2])
        both = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
        both = np.prod(np.clip(both, 0, None), axis=2) * (1 - np.eye(len(boxes)))
        shared = max(shared, (both / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).max())
    aspects = np.divide(*np.transpose(sides))
    area = np.sqrt(np.prod(sides, axis=1))
    assert 24 <= area.min() < 25 and 50 < area.max() <= 56 + 1e-6
    assert 0.625 <= aspects.min() + 1e-6 < 0.7 and 1.5 < aspects.max() <= 1.6 + 1e-6
    assert 0.4 < shared <= 0.5 + 1e-6 and max(numbers) > 6


@pytest.mark.parametrize("family", ["graded", "merged", "other"])
def test_scenes_have_few_overlaps_and_even_classes(family):
    counts, sizes, numbers = np.zeros(len(CLASS_NAMES[family])), [], []
    for i in range(400):
        image, boxes, labels = scene(rng(7, i), family)
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8
        assert boxes.shape == (len(labels), 4) and 1 <= len(labels) <= 6
        assert boxes.min() >= 0 and boxes.max() <= SIZE
        np.add.at(counts, labels, 1)
        numbers.append(len(labels))
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        sizes.extend(np.sqrt(area))
        shared = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
        shared = np.prod(np.clip(shared, 0, None), axis=2) * (1 - np.eye(len(boxes)))
        assert (shared / (area[:, None] + area - shared)).max() < 0.05
    expected = counts.mean()
    assert np.abs(counts - expected).max() < 4.5 * expected**0.5
    assert 26 <= min(sizes) < 27 and 57 < max(sizes) <= 60 + 1e-6 and 2.8 < np.mean(numbers) < 3.5


def test_boxes_fit_the_painted_bodies():
    """The box is computed, the body is drawn from its implicit equation: the changed pixels must agree."""
    for i in range(150):
        random = rng(3, i)
        look = badges.LOOKS["graded"]
        body = badges._place(random, 18 + 42 * random.random(), [], look)
        image = np.full((3, SIZE, SIZE), 0.5)
        badges._paint(image, body, random, look, i % 12)
        painted = np.abs(image - 0.5).max(0) > 1e-6
        columns, rows = np.flatnonzero(painted.any(0)), np.flatnonzero(painted.any(1))
        changed = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(changed - body.box).max() <= 1, (body, changed)


def test_the_hub_radius_lies_in_its_bin():
    """Along a ray midway between two arms the ink ends at the hub's radius, which lies in its bin."""
    r = np.linspace(0, 1, 2001)
    low, high = badges.HUB_RADII
    for arms in range(len(badges.ARMS)):
        between_arms = np.zeros_like(r)  # angle 0: half a period from an arm
        for hub_bin in range(badges.HUB_BINS):
            distance = badges._star(rng(arms, hub_bin), r, between_arms, arms * badges.HUB_BINS + hub_bin)
            hub = r[distance <= 0].max()
            edges = low + (high - low) * (hub_bin + np.array([0, 1])) / badges.HUB_BINS
            assert edges[0] - 1e-3 <= hub <= edges[1] + 1e-3


def test_other_shares_no_class_with_graded():
    assert len(set(CLASS_NAMES["graded"])) == len(set(CLASS_NAMES["other"])) == 12
    assert not any("arm" in name or "hub" in name for name in CLASS_NAMES["other"])


def test_an_exception_midway_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def fails(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return scene(*args)

    monkeypatch.setattr(badges, "scene", fails)
    with pytest.raises(KeyboardInterrupt):
        make_badges(tmp_path / "b", 3, 3, 0)
    assert len(calls) == 4 and not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = tmp_path / ".b-unfinished-abcdefgh/whole"
    left.mkdir(parents=True)
    (left / "half.png").write_text("x")
    make_badges(tmp_path / "b", 2, 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("file", ["sha256.json", "annotations/instances_train2017.json"])
def test_hashes_that_are_nested_too_deeply_are_damaged(file, tmp_path):
    root = make_badges(tmp_path / "b", 2, 1, 0)
    (root / file).write_text("[" * 99999)
    with pytest.raises(FileExistsError, match=f"{file}: damaged.*delete {root}, and it is made again"):
        make_badges(root, 2, 1, 0)
    (root / "sha256.json").unlink()  # as in a folder of an earlier version
    if file != "sha256.json":
        with pytest.raises(FileExistsError, match="is not the whole of"):
            make_badges(root, 2, 1, 0)


def test_a_whole_folder_is_kept_and_any_other_refused(tmp_path, monkeypatch):
    root = make_badges(tmp_path / "b", 2, 1, 0)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    monkeypatch.setattr(badges, "scene", None)  # nothing may be drawn any more
    assert make_badges(root, 2, 1, 0) == root
    for change in ({"seed": 1}, {"train": 3}, {"val": 0}, {"test": 1}, {"family": "other"}):
        with pytest.raises(FileExistsError, match="delete it or choose another folder"):
            make_badges(root, **({"train": 2, "val": 1, "test": 0} | change))
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    (root / "train2017" / "000002.png").unlink()
    with pytest.raises(FileExistsError, match="000002.png: damaged"):
        make_badges(root, 2, 1, 0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError):
        make_badges(tmp_path / "mine", 2, 1, 0)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "mine"]


def test_a_damaged_file_is_named(tmp_path):
    """Also one that is valid JSON still, or a whole PNG, or the hashes themselves."""
    root = make_badges(tmp_path / "b", 2, 1, 0)
    train = root / "annotations/instances_train2017.json"
    text = train.read_text()
    value = re.search(r'"bbox":\[(\d)', text)
    other = text[: value.start(1)] + str((int(value[1]) + 1) % 10) + text[value.end(1) :]
    assert len(json.loads(other)["annotations"]) == len(json.loads(text)["annotations"])
    image = root / "val2017/100001.png"
    for path, content in (
        (train, other.encode()),
        (train, text[:-1].encode()),
        (image, (root / "train2017/000001.png").read_bytes()),
        (root / "sha256.json", b"{}"),
        (root / "sha256.json", (root / "sha256.json").read_bytes().replace(b"0", b"1", 1)),
    ):
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(FileExistsError, match=f"{path}: damaged .*delete {root}, and it is made again"):
            make_badges(root, 2, 1, 0)
        path.write_bytes(whole)
    (root / "sha256.json").unlink()  # a folder of an earlier version
    assert make_badges(root, 2, 1, 0) == root


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=f"cannot write {tmp_path / 'b'}: no space left"):
        make_badges(tmp_path / "b", 1, 0, 0)
    assert not list(tmp_path.iterdir())


def test_bad_parameters_are_named(tmp_path):
    with pytest.raises(ValueError, match="'starry' is unknown; choose one of graded, other, merged, crowded"):
        make_badges(tmp_path / "b", 1, 0, 0, family="starry")
    for counts, seed in (((0, 0, 0), 0), ((-1, 1, 0), 0), ((100_001, 0, 0), 0), ((1, 0, 0), -1)):
        with pytest.raises(ValueError, match="seed"):
            make_badges(tmp_path / "b", *counts, seed=seed)
    assert not list(tmp_path.iterdir())
