"""What a distillation loss is to the training step."""

from __future__ import annotations

from torch import Tensor, nn

from c2dlib.detectors.train_output import TrainOutput


class Distiller:
    """A callable from a detector's TrainOutput to named, weighted terms, which are added to the task losses.

    A distiller owns its teacher. It is not a ``nn.Module``: no optimizer, checkpoint or ``train()`` reaches the teacher.
    """

    def __call__(self, out: TrainOutput) -> dict[str, Tensor]:
        raise NotImplementedError

    def divisors(self, out: TrainOutput) -> dict[str, int]:
        """Term -> number of samples that it is a mean over, for ``distributed.as_one_batch``; images where not named."""
        return {}

    def adapters(self) -> dict[str, nn.Module]:
        """The modules that are trained with the student and dropped after training, by their names in a checkpoint."""
        return {}
