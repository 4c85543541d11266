"""What a distillation loss is to the training step."""

from __future__ import annotations

from torch import Tensor, nn

from c2dlib.detectors.train_output import TrainOutput


class Distiller:
    """A callable from a detector's TrainOutput to named, weighted terms, which are added to the task losses.

    A distiller owns its teacher. It is not a ``nn.Module``: no optimizer, checkpoint or ``train()`` reaches
    the teacher.
    """

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        raise NotImplementedError

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        """Term -> number of samples it is a mean over; images, where not named. See ``distributed``."""
        return {}

    def adapters(self) -> dict[str, nn.Module]:
        """Name in a checkpoint -> module that is trained with the student and dropped afterwards."""
        return {}

    def forget(self) -> None:
        """Compute everything anew at each step from now on, so that the step's cost can be measured."""
