"""Badges: procedural 128 px scenes whose classes are alike by degrees, written as a COCO-format folder.

Family "graded": 12 classes = 3..6 arms x 3 bins of a continuous hub radius, so that a detector cannot always
tell neighbouring classes apart. Family "merged": the same pixels and boxes; the three hub bins of an arm
count are one class. Family "crowded": classes as "merged", but bodies that are longer, cover one
another and fade into the background, so that boxes are hard too. Family "other": 12 classes of pointed stars
on textures in the same rendering, to pre-train a backbone on; they have no hubs, so a backbone cannot learn
the hub radii from them. The seed alone decides every pixel and box.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from c2dlib.files import json_with_hash, parse_json, read_json_with_hash, sha256, whole_folder

VERSION = 4  # of the generator: raise it with any change of pixels or boxes; of one look: its revision
SIZE = 128
AREA_CUTS = [34, 46]  # px; COCO's 32 and 96 do not fit scenes this small
HUB_RADII = (0.18, 0.32)  # of the body's radius
ARMS, HUB_BINS = (3, 4, 5, 6), 3
TEXTURES = ("plain", "stripes", "checker")
SPLITS = ("train", "val", "test")
HASHES = "sha256.json"  # of the folder's files
MAX_IMAGES = 100_000  # per split; split s has the image ids s * MAX_IMAGES + 1 ...
CLASS_NAMES = {
    "graded": tuple(f"{k}-arm hub-{i + 1}" for k in ARMS for i in range(HUB_BINS)),
    "other": tuple(f"{k}-point {t}" for k in ARMS for t in TEXTURES),
    "merged": tuple(f"{k}-arm" for k in ARMS),
    "crowded": tuple(f"{k}-arm" for k in ARMS),
}
FAMILIES = tuple(CLASS_NAMES)


@dataclass(frozen=True)
class Body:
    """A superellipse |u/a|^n + |v/b|^n <= 1, turned by an angle about (cx, cy). Pixel i spans i..i+1."""

    cx: float
    cy: float
    a: float
    b: float
    n: float
    angle: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The exact enclosing box xyxy, by the support function."""
        m = self.n / (self.n - 1)
        c, s = abs(np.cos(self.angle)), abs(np.sin(self.angle))
        hx, hy = (((self.a * p) ** m + (self.b * q) ** m) ** (1 / m) for p, q in ((c, s), (s, c)))
        return self.cx - hx, self.cy - hy, self.cx + hx, self.cy + hy


@dataclass(frozen=True)
class Look:
    """How the scenes of a family are drawn, and which of the glyph's classes its annotations tell apart."""

    glyphs: str  # graded or other: the classes that are drawn
    stream: int  # families of one stream have the same pixels and boxes
    merged: int = 1  # so many of the glyph's classes, one after the other, are one class of the annotations
    diameters: tuple[float, float] = (26.0, 60.0)  # px, sqrt(box area), log-uniform
    aspects: tuple[float, float] = (0.8, 1.25)  # width over height, before the turn
    shared: float = 0.09  # largest share of a box that another one covers; .09 is an IoU below .05
    objects: int = 6  # at most
    blend: tuple[float, float] = (0.0, 0.0)  # how much of a body's colour is that of its background
    edge: float = 1.0  # px over which a body's border fades
    revision: int = 0  # raise it with any change of this look alone: its scenes then are another data set


LOOKS = {
    "graded": Look("graded", 0),
    "other": Look("other", 1),
    "merged": Look("graded", 0, merged=HUB_BINS),
    "crowded": Look(
        "graded",
        2,
        merged=HUB_BINS,
        diameters=(24.0, 56.0),
        aspects=(0.625, 1.6),
        shared=0.5,
        objects=9,
        blend=(0.3, 0.8),
        edge=4.0,
        revision=1,
    ),
}


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _below(rng: np.random.Generator, n: int) -> int:
    """0..n-1 from a plain double: numpy's own integers may change between its versions."""
    return int(rng.random() * n)


def _spline(cells: int) -> np.ndarray:
    """[SIZE, cells + 3] weights that spread a row of values as a uniform cubic B-spline."""
    at = (np.arange(SIZE) + 0.5) / SIZE * cells
    cell, t, weights = at.astype(int), at % 1, np.zeros((SIZE, cells + 3))
    parts = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, part in enumerate(parts):
        weights[np.arange(SIZE), cell + k] = part / 6
    return weights


_OCTAVES = [(_spline(cells), amplitude) for cells, amplitude in ((2, 1.0), (5, 0.55), (11, 0.3), (24, 0.16))]


def _background(rng: np.random.Generator) -> np.ndarray:
    base, strength = 0.25 + 0.5 * rng.random((3, 1, 1)), _between(rng, 0.25, 0.8)
    image = np.zeros((3, SIZE, SIZE))
    for weights, amplitude in _OCTAVES:
        k = weights.shape[1]
        grid = rng.random((3, k, k)) + rng.random((1, k, k)) - 1  # hue, and light shared by the channels
        image += weights @ (strength * amplitude * grid) @ weights.T
    return np.clip(base + image, 0.04, 0.96)


def _colour(rng: np.random.Generator, against: list[np.ndarray], tries: int) -> np.ndarray:
    """[3]; of a few random colours the one farthest from all of ``against``, lightness counting most."""
    colours = 0.05 + 0.9 * rng.random((tries, 3))
    apart = colours[:, None] - np.stack(against)
    far = np.sqrt((apart**2).sum(-1)) + 1.5 * np.abs(apart @ np.array([0.3, 0.6, 0.1]))
    return colours[far.min(1).argmax()]


def _place(rng: np.random.Generator, d: float, boxes: list[tuple], look: Look) -> Body | None:
    """A body of box area d*d, whole in the image, that shares little enough of each box; None: no room."""
    aspect, n = _between(rng, *look.aspects) ** 0.5, _between(rng, 2.0, 4.0)
    angle = _between(rng, 0, 2 * np.pi) if rng.random() < 0.7 else 0.0
    hx, hy = Body(0, 0, aspect, 1 / aspect, n, angle).box[2:]
    scale = d / (2 * (hx * hy) ** 0.5)
    hx, hy = hx * scale, hy * scale
    for _ in range(40):
        cx, cy = _between(rng, hx + 1, SIZE - hx - 1), _between(rng, hy + 1, SIZE - hy - 1)
        shared = 0.0
        for x1, y1, x2, y2 in boxes:
            w, h = min(x2, cx + hx) - max(x1, cx - hx), min(y2, cy + hy) - max(y1, cy - hy)
            shared = max(shared, max(w, 0) * max(h, 0) / min((x2 - x1) * (y2 - y1), d * d))
        if shared <= look.shared:
            return Body(cx, cy, aspect * scale, scale / aspect, n, angle)
    return None


def _star(rng: np.random.Generator, r: np.ndarray, theta: np.ndarray, label: int) -> np.ndarray:
    """Signed distance (body radii) to arms that widen outwards, so that they do not hide a small hub."""
    arms, (low, high) = ARMS[label // HUB_BINS], HUB_RADII
    hub = low + (high - low) * (label % HUB_BINS + rng.random()) / HUB_BINS  # uniform over the whole range
    off_axis = np.abs((theta * (arms / (2 * np.pi))) % 1 - 0.5) * (2 * np.pi / arms)
    arm = np.maximum(r * (off_axis - _between(rng, 0.12, 0.17)) - 0.03, r - _between(rng, 0.82, 0.92))
    return np.minimum(arm, r - hub)


def _pointed(rng: np.random.Generator, r: np.ndarray, theta: np.ndarray, points: int) -> np.ndarray:
    """Signed distance (body radii), near its edges, to a star whose points narrow outwards; it has no hub."""
    outer, inner, half = _between(rng, 0.78, 0.92), _between(rng, 0.28, 0.4), np.pi / points
    turned = np.abs((theta + half) % (2 * half) - half)  # angle to the nearest point
    edge = inner * np.cos(half) - outer, inner * np.sin(half)  # from the tip to the notch
    length = np.hypot(*edge)
    return (edge[1] * (r * np.cos(turned) - outer) - edge[0] * r * np.sin(turned)) / length


def _cover(distance: np.ndarray, edge: float = 1.0) -> np.ndarray:
    """Signed distance in px -> share of the pixel covered, from 1 to 0 over ``edge`` px inside the border."""
    return np.clip(0.5 - (distance + (edge - 1) / 2) / edge, 0.0, 1.0)


def _paint(image: np.ndarray, body: Body, rng: np.random.Generator, look: Look, label: int | None) -> None:
    """Draws a body into image [3, SIZE, SIZE], with the glyph of a class unless label is None."""
    x1, y1, x2, y2 = (int(v) for v in body.box)
    rows, columns = slice(max(y1 - 1, 0), y2 + 2), slice(max(x1 - 1, 0), x2 + 2)
    patch = image[:, rows, columns]
    x, y = np.arange(SIZE)[columns] + 0.5 - body.cx, np.arange(SIZE)[rows, None] + 0.5 - body.cy
    c, s = np.cos(body.angle), np.sin(body.angle)
    u, v = (c * x + s * y) / body.a, (c * y - s * x) / body.b
    rho = (np.abs(u) ** body.n + np.abs(v) ** body.n) ** (1 / body.n)
    radius = (body.a * body.b) ** 0.5
    ground = _colour(rng, [behind := patch.mean((1, 2))], 5)
    if look.blend[1]:
        ground = ground + _between(rng, *look.blend) * (behind - ground)
    face = ground[:, None, None]
    if label is not None:
        r, theta = np.sqrt(u * u + v * v), np.arctan2(v, u) + _between(rng, 0, 2 * np.pi)
        if look.glyphs == "graded":
            distance, ink = _star(rng, r, theta, label), _colour(rng, [ground], 8)
        else:
            second = ground + 0.4 * (_colour(rng, [ground], 5) - ground)
            distance, ink = _pointed(rng, r, theta, ARMS[label // 3]), _colour(rng, [ground, second], 12)
            period, tilt = _between(rng, 0.42, 0.56), theta + _between(rng, 0, 2 * np.pi)
            across = r * np.cos(tilt), r * np.sin(tilt)
            p, q = (_cover((np.abs((w / period) % 1 - 0.5) - 0.25) * period * radius) for w in across)
            mix = (0.0, p, p + q - 2 * p * q)[label % 3]  # TEXTURES
            face = face + mix * (second - ground)[:, None, None]
        face = face + _cover(distance * radius) * (ink[:, None, None] - face)
    light, toward = _between(rng, 0.05, 0.3) / radius, _between(rng, 0, 2 * np.pi)
    face = face * (1 + light * (np.cos(toward) * x + np.sin(toward) * y))
    distance = np.sqrt(x * x + y * y) * (1 - 1 / np.maximum(rho, 1e-6))
    patch += _cover(distance, look.edge) * (face - patch)


def _bar(image: np.ndarray, rng: np.random.Generator) -> None:
    """A thin bar across whatever is there: 20..50 px long, 2..4 px wide."""
    cx, cy, angle = _between(rng, 0, SIZE), _between(rng, 0, SIZE), _between(rng, 0, np.pi)
    length, width, colour = _between(rng, 10, 25), _between(rng, 1, 2), 0.05 + 0.9 * rng.random((3, 1, 1))
    x, y = np.arange(SIZE) + 0.5 - cx, np.arange(SIZE)[:, None] + 0.5 - cy
    c, s = np.cos(angle), np.sin(angle)
    distance = np.maximum(np.abs(c * x + s * y) - length, np.abs(c * y - s * x) - width)
    image += _cover(distance) * (colour - image)


def scene(rng: np.random.Generator, family: str) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Image uint8 [SIZE, SIZE, 3], boxes xyxy float64 [N, 4] with N >= 1, labels 0..C-1."""
    look = LOOKS[family]
    image = _background(rng)
    objects, boxes, labels = [], [], []
    for _ in range(1 + _below(rng, look.objects)):
        low, high = look.diameters
        body = _place(rng, low * (high / low) ** rng.random(), boxes, look)
        label = _below(rng, len(CLASS_NAMES[look.glyphs]))
        if body is not None:
            objects.append(body)
            boxes.append(body.box)
            labels.append(label)
    for _ in range(_below(rng, 3)):  # bodies without a glyph, under the rest
        body = _place(rng, _between(rng, 10, 30), boxes, look)
        if body is not None:
            _paint(image, body, rng, look, None)
    for body, label in zip(objects, labels, strict=True):
        _paint(image, body, rng, look, label)
    for _ in range(max(_below(rng, 4) - 1, 0)):
        _bar(image, rng)
    image += _between(rng, 0.02, 0.12) * (rng.random(image.shape) - 0.5)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return (
        np.ascontiguousarray(pixels.transpose(1, 2, 0)),
        np.array(boxes),
        [k // look.merged for k in labels],
    )


def _write_split(root: Path, split: str, count: int, seed: int, family: str, info: dict) -> None:
    folder, split_no, stream = root / f"{split}2017", SPLITS.index(split), LOOKS[family].stream
    folder.mkdir()
    images, annotations, names = [], [], CLASS_NAMES[family]
    for index in range(count):
        entropy = np.random.SeedSequence([seed, stream, split_no, index])
        pixels, boxes, labels = scene(np.random.Generator(np.random.PCG64(entropy)), family)
        image_id = split_no * MAX_IMAGES + index + 1
        name = f"{image_id:06d}.png"
        Image.fromarray(pixels).save(folder / name, compress_level=1)
        images.append({"id": image_id, "file_name": name, "width": SIZE, "height": SIZE})
        for k, ((x1, y1, x2, y2), label) in enumerate(zip(boxes.tolist(), labels, strict=True)):
            bbox = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                {
                    "id": image_id * 10 + k,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": bbox,
                    "area": round(bbox[2] * bbox[3], 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": n, "supercategory": n.split()[0]} for i, n in enumerate(names)]
    coco = {"info": info, "licenses": [], "images": images, "annotations": annotations}
    text = json.dumps(coco | {"categories": categories}, sort_keys=True, separators=(",", ":"))
    (root / "annotations" / f"instances_{split}2017.json").write_text(text, encoding="utf-8")


def _hashes(root: Path) -> dict[str, str]:
    """The sha256 of every annotation and image file, by its path in the folder."""
    paths = [path for split in SPLITS for path in (root / f"{split}2017").glob("*.png")]
    paths += (root / "annotations").glob("*.json")
    return {path.relative_to(root).as_posix(): sha256(path.read_bytes()) for path in sorted(paths)}


def _require_undamaged(root: Path) -> None:
    """Compare a folder with the hashes that were written with it; an earlier version's folder has none.

    Raises:
        FileExistsError: naming the first file that differs.
    """
    path = root / HASHES
    if not path.exists():
        return
    advice = f"delete {root}, and it is made again"
    try:
        written = read_json_with_hash(path.read_bytes().decode())
    except ValueError as error:
        raise FileExistsError(f"{path}: damaged ({error}); {advice}") from error
    found = _hashes(root)
    for name in sorted(written.keys() | found.keys()):
        if written.get(name) != found.get(name):
            raise FileExistsError(f"{root / name}: damaged (its hash is not the one in {HASHES}); {advice}")


def _is_complete(root: Path, info: dict) -> bool:
    """Whether root holds exactly what ``info`` asks for; False also for anything unreadable."""
    for split, count in info["images"].items():
        path = root / "annotations" / f"instances_{split}2017.json"
        try:
            existing = parse_json(path.read_bytes())["info"] if count or path.exists() else None
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if existing != (info if count else None) or len(list((root / f"{split}2017").glob("*.png"))) != count:
            return False
    return True


def family_version(family: str) -> dict[str, int]:
    """What changes with a family's pixels and boxes: the generator's version, and the look's revision."""
    revision = LOOKS[family].revision
    return {"version": VERSION} | ({"revision": revision} if revision else {})


def make_badges(root: Path, train: int, val: int, test: int, seed: int = 0, family: str = "graded") -> Path:
    """A COCO folder of so many images per split (0: no files of that split); returns root.

    Made beside root and renamed at the end, so root is whole or absent; at once if it stands already.

    Raises:
        ValueError: for bad parameters.
        FileExistsError: if root holds anything else, or a file in it is damaged.
        OSError: if it cannot be written.
    """
    root, counts = Path(root), {"train": train, "val": val, "test": test}
    if family not in FAMILIES:
        raise ValueError(f"Badges: family {family!r} is unknown; choose one of {', '.join(FAMILIES)}")
    if seed < 0 or min(counts.values()) < 0 or not 0 < max(counts.values()) <= MAX_IMAGES:
        raise ValueError(
            f"Badges: give a seed >= 0 and 0..{MAX_IMAGES} images per split, not 0 in all; "
            f"got seed {seed}, {counts}"
        )
    info = {
        "description": f"Badges ({family}), procedural scenes",
        "family": family,
        "seed": seed,
        **family_version(family),
        "images": counts,
        "area_cuts": AREA_CUTS,
    }
    info["parameters_sha256"] = hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest()
    _require_undamaged(root)
    if _is_complete(root, info):
        return root
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        version = ", ".join(f"{name} {number}" for name, number in family_version(family).items())
        raise FileExistsError(
            f"Badges: {root} exists but is not the whole of family {family}, seed {seed}, "
            f"{version}, images {counts}; delete it or choose another folder"
        )
    try:
        with whole_folder(root) as temporary:
            made = temporary / "whole"
            (made / "annotations").mkdir(parents=True)
            for split in SPLITS:
                if counts[split]:
                    _write_split(made, split, counts[split], seed, family, info)
            (made / HASHES).write_text(json_with_hash(_hashes(made)), encoding="utf-8")
    except OSError:
        if not _is_complete(root, info):  # else another process was faster
            raise
    return root
