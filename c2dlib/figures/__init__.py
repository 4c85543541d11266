"""Figures, one file per subject: ``from c2dlib import figures``, then for instance ``figures.table_bars``.

Every function returns a matplotlib figure with a text for those who cannot see it (``style.Picture``).
Ground truth is blue, a right detection green, a wrong one dashed red; the method that the paper calls *ours*
is called C2D; *reproduced* are the numbers of this project's own runs.
"""

from c2dlib.figures.choices import values_tried
from c2dlib.figures.claims import claims_forest
from c2dlib.figures.curves import convergence, training_curves
from c2dlib.figures.errors import (
    change_over_iou,
    error_bars,
    error_examples,
    errors_over_iou,
    errors_per_class,
)
from c2dlib.figures.evaluation import precision_recall_curves, validation_curves
from c2dlib.figures.front import front
from c2dlib.figures.images import Labelled, compare_detections, detections, show_image, top_results
from c2dlib.figures.losses import box_gradients, losses_over_shift, moving_crop
from c2dlib.figures.method import method_diagram, write_diagram
from c2dlib.figures.style import save
from c2dlib.figures.tables import ap_over_iou, gain_over_cost, gpu_hours, map_over_images, table_bars
from c2dlib.figures.teacher import attention_maps, confusion, reliability, softened, teacher_view

__all__ = [
    "Labelled",
    "ap_over_iou",
    "attention_maps",
    "box_gradients",
    "change_over_iou",
    "claims_forest",
    "compare_detections",
    "convergence",
    "confusion",
    "detections",
    "error_bars",
    "error_examples",
    "errors_over_iou",
    "errors_per_class",
    "front",
    "gain_over_cost",
    "gpu_hours",
    "losses_over_shift",
    "map_over_images",
    "method_diagram",
    "moving_crop",
    "precision_recall_curves",
    "reliability",
    "save",
    "show_image",
    "softened",
    "table_bars",
    "teacher_view",
    "top_results",
    "training_curves",
    "validation_curves",
    "values_tried",
    "write_diagram",
]
