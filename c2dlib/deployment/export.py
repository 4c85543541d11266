"""A student as ONNX, checked against the PyTorch detector with onnxruntime."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from c2dlib.evaluation.scores import Threshold
from c2dlib.files import check_replaceable, errors_named, write_whole

OPSET = 17
INPUT = "image: RGB, 3 x height x width, 0..1; boxes come as x1, y1, x2, y2 in its pixels"  # in the metadata
COMPARED_ABOVE = 0.05  # score of the detections that the check compares


class ExportError(Exception):
    """An exported model that does not find what the detector finds."""


class _AsTuple(nn.Module):
    """boxes, scores, labels of one image, in this order, whatever the detector calls them in."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = self.detector([image])[0]
        return output["boxes"], output["scores"], output["labels"]


def export_onnx(
    detector: nn.Module,
    path: Path,
    image: Tensor,
    names: list[str] | None = None,
    threshold: Threshold | None = None,
) -> Path:
    """Write a torchvision detector as ONNX.

    Its input is ``image`` [3, H, W] in 0..1; its outputs are ``boxes``, ``scores`` and ``labels`` (1..C;
    RetinaNet and FCOS can also give 0, their unused column, which is no class).

    Resizing, normalisation and non-maximum suppression are inside; H and W are free.

    Args:
        image: any picture of the kind; it is only traced.
        names: of the classes, written into the file's metadata as ``names``: a JSON object, label -> name.
        threshold: written as ``threshold``, a number; how it was chosen as ``threshold_rule``.

    Raises:
        OSError: if the file cannot be written; the message names it.
    """
    model = _AsTuple(detector).cpu().eval()
    with errors_named(path), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every size that torchvision turns into a number
        torch.onnx.export(
            model,
            (image.cpu(),),
            str(Path(folder) / "model.onnx"),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["boxes", "scores", "labels"],
            dynamic_axes={
                "image": {1: "height", 2: "width"},
                "boxes": {0: "found"},
                "scores": {0: "found"},
                "labels": {0: "found"},
            },
        )
        exported = onnx.load(str(Path(folder) / "model.onnx"))
    onnx.helper.set_model_props(exported, _metadata(names, threshold))
    write_whole(path, exported.SerializeToString())
    return path


def export_checked(
    detector: nn.Module, path: Path, image: Tensor, names: list[str], threshold: Threshold | None
) -> int:
    """Export a detector as ``export_onnx`` does; the file is written after ``check_onnx`` accepted it.

    Returns:
        How many detections were compared; 0: nothing is checked.

    Raises:
        FileExistsError: if ``path`` is there and is no export.
        ExportError: if the exported model fails the check.
        OSError: if the file cannot be written; in each case what was there is intact.
    """
    check_replaceable(path, _is_export, "export")
    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(detector, Path(folder) / path.name, image, names, threshold)
        compared = check_onnx(exported, detector, [image])
        write_whole(path, exported.read_bytes())
    return compared


def _is_export(content: bytes) -> bool:
    """Whether a file is one that ``export_onnx`` wrote."""
    return {"input": INPUT}.items() <= {
        entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props
    }.items()


def _metadata(names: list[str] | None, threshold: Threshold | None) -> dict[str, str]:
    """The metadata of an ONNX file."""
    metadata = {"input": INPUT}
    if names:
        metadata["names"] = json.dumps({label: name for label, name in enumerate(names, start=1)})
    if threshold:
        metadata["threshold"] = repr(threshold.score)
        metadata["threshold_rule"] = f"{threshold.rule}, on {threshold.split}"
    return metadata


def run_onnx(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """An onnxruntime session on CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def check_onnx(path: Path, detector: nn.Module, images: list[Tensor], above: float = COMPARED_ABOVE) -> int:
    """Check that the exported model gives the detector's detections on every image.

    Each detection of one of them with a score above ``above`` must be among the detections of the other,
    with the same label, the score within 0.001 and every side within half a pixel.

    Returns:
        How many detections were compared; 0: nothing is checked.

    Raises:
        ExportError: naming the image and the first detection that only one of them has.
    """
    session, compared, detector = run_onnx(path), 0, detector.cpu().eval()
    for i, image in enumerate(images):
        exported = [
            torch.from_numpy(np.asarray(value)) for value in session.run(None, {"image": image.numpy()})
        ]
        output = detector([image])[0]
        original = [output["boxes"], output["scores"], output["labels"]]
        for one, other, whose in (
            (original, exported, "the detector"),
            (exported, original, "the exported model"),
        ):
            same = (
                (torch.cdist(one[0], other[0], p=float("inf")) < 0.5)
                & (one[2][:, None] == other[2])
                & ((one[1][:, None] - other[1]).abs() < 1e-3)
            )
            alone = (one[1] > above) & ~same.any(1)
            if alone.any():
                k = int(alone.nonzero()[0])
                raise ExportError(
                    f"image {i}: only {whose} finds class {int(one[2][k])} at "
                    f"{[round(v, 1) for v in one[0][k].tolist()]}, score {one[1][k]:.3f}"
                )
            compared += int((one[1] > above).sum())
    return compared


@torch.inference_mode()
def latency(path: Path, detector: nn.Module, image: Tensor, repeats: int = 20) -> dict[str, float]:
    """Milliseconds per image on one CPU thread: ``onnx`` (onnxruntime) and ``torch``, medians, warmed up."""
    session, before, detector = run_onnx(path), torch.get_num_threads(), detector.cpu().eval()
    torch.set_num_threads(1)
    try:
        calls = {
            "onnx": lambda: session.run(None, {"image": image.numpy()}),
            "torch": lambda: detector([image]),
        }
        return {
            name: 1000 * statistics.median(_seconds(call) for _ in range(repeats + 2))
            for name, call in calls.items()
        }
    finally:
        torch.set_num_threads(before)


def _seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
