"""Reading a COCO-format folder: splits of images and targets.

``validation`` checks the folder, ``images`` decodes its files.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from c2dlib.data.images import read_image
from c2dlib.data.segmentations import SegmentationError, check, draw
from c2dlib.data.validation import SHOWN_PER_KIND, DataError, Report, validate


@dataclass(frozen=True)
class Category:
    id: int  # as in the annotation file, gaps allowed
    name: str


class CocoSplit(Dataset):
    """One validated split. Item i is ``(image, target)``.

    The image is a uint8 RGB ``tv_tensors.Image`` [3, H, W]. The target has ``boxes`` float32 [N, 4] xyxy in
    pixels, ``labels`` int64 [N] in 1..C and ``image_id``; N may be 0; ``with_masks`` adds ``masks``. Crowds
    are never in a target; they are in ``annotations``, and the evaluation ignores detections that lie in
    them. Decoded images stay in memory if all images of the split fit into ``cache_bytes``. Reading an item
    raises DataError if its image file cannot be read.
    """

    def __init__(
        self, name: str, root: Path, categories: list[Category], annotations: dict, cache_bytes: float = 1.5e9
    ):
        self.name, self.root, self.categories, self.annotations = name, root, categories, annotations
        self.class_names = [category.name for category in categories]
        self.image_ids = [image["id"] for image in annotations["images"]]
        self._label = {category.id: i for i, category in enumerate(categories, start=1)}
        # image id -> annotations
        self._objects: dict[int, list[dict]] = {image_id: [] for image_id in self.image_ids}
        for row in annotations["annotations"]:
            if not row["iscrowd"]:
                self._objects[row["image_id"]].append(row)
        decoded_bytes = sum(3 * image["width"] * image["height"] for image in annotations["images"])
        self._share, self._number = 1.0, 0  # of the images with boxes, see ``part``
        self._segmentations: dict[int, list | dict] | None = None  # by annotation id, see ``with_masks``
        self._cache: dict[int, Tensor] | None = {} if decoded_bytes <= cache_bytes else None

    @property
    def image_folder(self) -> Path:
        return self.root / f"{self.name}2017"

    def __len__(self) -> int:
        return len(self.image_ids)

    def with_boxes(self) -> list[int]:
        """The items that have a box to train on; after ``part`` only those of the part."""
        items = [i for i, image_id in enumerate(self.image_ids) if self._objects[image_id]]
        count = max(1, round(self._share * len(items)))
        return items[self._number * count : (self._number + 1) * count]

    def part(self, share: float, number: int = 0) -> CocoSplit:
        """This split with only ``share`` (0..1] of its images with boxes, at least one of them.

        Args:
            number: 0: the first ones, 1: as many that follow, and so on; parts have no image in common.

        Raises:
            DataError: if there are too few images for a part of this number.
        """
        part = copy.copy(self)
        part._share, part._number = share, number
        if number and not part.with_boxes():
            raise DataError(
                f"{self.root}: {len(self.with_boxes())} images of {self.name} with boxes have no part "
                f"number {number} (draw) of the share {share:g} (train_share); choose a smaller "
                "draw or a larger train_share"
            )
        return part

    def with_masks(self) -> CocoSplit:
        """This split with ``masks`` uint8 [N, H, W] in its targets.

        Where no box has a segmentation, it is the split itself. Segmentations are read and checked only here,
        all at once: a student of boxes can be trained on data with broken ones.

        Raises:
            DataError: if some boxes have a segmentation and some have none, or segmentations cannot be drawn;
                it names file, annotation id and what is wrong.
        """
        file = self.root / f"annotations/instances_{self.name}2017.json"
        segmentations = {
            row["id"]: row.get("segmentation") for row in json.loads(file.read_bytes())["annotations"]
        }
        ids = [row["source_id"] for rows in self._objects.values() for row in rows]
        missing = [i for i in ids if not segmentations[i]]
        if len(missing) == len(ids):
            return self
        if missing:
            raise DataError(
                f"{file}: {len(missing)} of {len(ids)} boxes have no segmentation, such as annotation id "
                f"{', '.join(map(str, missing[:5]))}. Mask R-CNN needs it for all boxes, or for none."
            )
        self._check_segmentations(file, segmentations)
        part = copy.copy(self)
        part._segmentations = {i: segmentations[i] for i in ids}
        return part

    def _check_segmentations(self, file: Path, segmentations: dict[int, list | dict]) -> None:
        """Raise DataError if the segmentation of a box cannot be drawn."""
        problems = []
        for image in self.annotations["images"]:
            for row in self._objects[image["id"]]:
                try:
                    check(segmentations[row["source_id"]], image["height"], image["width"])
                except SegmentationError as error:
                    problems.append(f"  annotation id {row['source_id']}: segmentation: {error}")
        if problems:
            more = [f"  ... and {len(problems) - SHOWN_PER_KIND} more"] if problems[SHOWN_PER_KIND:] else []
            lines = [f"{file}: {len(problems)} segmentation(s) cannot be drawn:", *problems[:SHOWN_PER_KIND]]
            fix = "What to do: correct or remove them, or train a student without masks, which ignores them."
            raise DataError("\n".join([*lines, *more, fix]))

    def __getitem__(self, i: int) -> tuple[tv_tensors.Image, dict]:
        entry = self.annotations["images"][i]
        size = (entry["height"], entry["width"])
        rows = self._objects[entry["id"]]
        corners = [(x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in rows)]
        boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.tensor([self._label[row["category_id"]] for row in rows], dtype=torch.int64),
            "image_id": entry["id"],
        }
        if self._segmentations is not None:
            target["masks"] = self._masks(rows, size)
        return tv_tensors.Image(self._pixels(entry)), target

    def _masks(self, rows: list[dict], size: tuple[int, int]) -> tv_tensors.Mask:
        masks = np.zeros((len(rows), *size), np.uint8)
        for i, row in enumerate(rows):
            masks[i] = draw(self._segmentations[row["source_id"]], *size)
        return tv_tensors.Mask(torch.from_numpy(masks))

    def _pixels(self, entry: dict) -> Tensor:
        if self._cache is not None and entry["id"] in self._cache:
            return self._cache[entry["id"]].clone()  # so that no in-place transform reaches the cache
        path = self.image_folder / entry["file_name"]
        try:
            pixels = read_image(path, entry["width"], entry["height"])
        except Exception as error:  # Pillow's decoders raise many types
            text = f"{path}: image id {entry['id']} cannot be read: {error}. Restore the file."
            raise DataError(text) from error
        if self._cache is not None:
            self._cache[entry["id"]] = pixels.clone()
        return pixels


@dataclass(frozen=True)
class CocoFolder:
    """A validated COCO-format folder."""

    root: Path
    name: str
    splits: dict[str, CocoSplit]  # "train", "val" and, where there is one, "test"
    categories: list[Category]  # by id; label = 1 + index
    report: Report
    area_cuts: tuple[float, float]  # sides in pixels between small, medium and large boxes
    annotation_hash: str  # sha256 over the annotation files

    @property
    def eval_split(self) -> str:
        """The split that tables report: test where there is one, else val."""
        return "test" if "test" in self.splits else "val"

    def files_hash(self) -> str:
        """sha256 over the names and sizes of the image files.

        The files are not read; the hash changes if one is replaced by a file of another size.
        """
        digest = hashlib.sha256()
        for split in self.splits.values():
            for image in split.annotations["images"]:
                path = split.image_folder / image["file_name"]
                size = path.stat().st_size if path.exists() else -1
                digest.update(f"{split.name} {image['file_name']} {size}\n".encode())
        return digest.hexdigest()

    @property
    def image_counts(self) -> dict[str, int]:
        return {name: len(split) for name, split in self.splits.items()}


def load_folder(
    root: str | Path, cache_bytes: float = 1.5e9, check_images: bool = True, cache: Path | None = None
) -> CocoFolder:
    """Load and validate all splits of a COCO-format folder; writes nothing but into ``cache``.

    Boxes that are clipped to the image or dropped (not finite, no area, wholly outside) are no errors:
    ``report`` counts them.

    Args:
        cache_bytes: a split whose decoded images fit into this many bytes stays in memory once read.
        check_images: look at every image file. Above ``validation.FULL_DECODE_LIMIT`` images only headers are
            read, and a truncated file raises DataError when it is used. False where another process has just
            validated the folder.
        cache: a folder that keeps which image files were without problems; they are looked at again only if a
            file or an annotation file was changed, replaced, added or removed. None: they always are.

    Raises:
        DataError: with all problems of all splits at once.
    """
    root = Path(os.path.abspath(os.path.expanduser(root)))
    content = validate(root, check_images, cache)
    splits = {
        name: CocoSplit(
            name, root, [Category(**c) for c in annotations["categories"]], annotations, cache_bytes
        )
        for name, annotations in content.annotations.items()
    }
    return CocoFolder(
        root,
        root.name,
        splits,
        splits["train"].categories,
        content.report,
        content.area_cuts,
        content.annotation_hash,
    )
