"""Attention: high where the teacher's answer comes from, zero where nothing depends on it."""

import torch

from c2dlib.detectors.train_output import TeacherReading
from c2dlib.teacher.attention import attention


class TopLeftRed(torch.nn.Module):
    """Class 0 if the upper left quarter is red; knows nothing else."""

    def read(self, crops, layers=0):
        half = crops.shape[-1] // 2
        red = crops[:, 0, :half, :half].mean((1, 2)) / 255
        return TeacherReading(torch.stack([4 * red, 2 + 0 * red], 1), [])


def test_attention_is_where_the_answer_comes_from():
    crops = torch.zeros(2, 3, 16, 16)
    crops[:, 0, :8, :8] = 255
    maps = attention(TopLeftRed(), crops, torch.tensor([0, 1]), cells=8)
    assert maps.shape == (2, 16, 16)
    assert (maps[0, :8, :8] > 0).all() and maps[0, 10:, 10:].abs().max() == 0
    # The first square alone covers the corner: a quarter of the red falls from 1 to the crop's mean, 1/4.
    before, after = torch.sigmoid(torch.tensor([4 - 2, 4 * 0.8125 - 2.0]))
    torch.testing.assert_close(maps[0, 0, 0], before - after)
    assert (maps[1, :8, :8] < 0).all()  # what speaks for class 0 misleads class 1


def test_no_crops_have_no_maps():
    assert attention(TopLeftRed(), torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.int64)).shape == (
        0,
        16,
        16,
    )
