# SPDX-License-Identifier: Apache-2.0
"""What is done to Torch-Pruning's cuts is fair to them."""

import numpy as np
import torch
from torch_pruning_peer import reestimated


def test_reestimated_statistics_are_those_of_the_images_and_training_goes_on_as_usual() -> None:
    images = np.random.default_rng(0).normal(3, 2, (200, 1, 4, 4)).astype(np.float32)
    net = reestimated(torch.nn.Sequential(torch.nn.BatchNorm2d(1, momentum=0.3)), images)
    assert net[0].momentum == 0.3
    np.testing.assert_allclose(net[0].running_mean, images.mean(), atol=1e-5)
    assert not net.training
