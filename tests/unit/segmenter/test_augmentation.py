"""What training may change of a picture: never left for right, and never dark for bright."""

import numpy as np
import torch

from casebook.protocols import Frame
from segmenter.fit import TrainConfig
from segmenter.prompts import WindowConfig
from segmenter.samples import Augmentation, RoundData, Sample, TrainMask

CONFIG = TrainConfig(steps=40, batch=2, seed=5, concept_every=2)


def corner() -> Sample:
    """A dark L on a light ground: nothing of it lies at the upper right."""
    bitmap = np.zeros((96, 96), dtype=bool)
    bitmap[20:76, 24:34] = True
    bitmap[66:76, 24:74] = True
    pixels = np.where(bitmap, 50, 180).astype(np.uint8)
    return Sample(Frame(pixels), (TrainMask("L", bitmap),))


def emptiest_quarter(bitmap: torch.Tensor) -> str:
    """The quarter of an object's box that holds least of it."""
    rows, columns = torch.nonzero(bitmap, as_tuple=True)
    cut = bitmap[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    down, across = cut.shape[0] // 2, cut.shape[1] // 2
    held = {
        "upper left": cut[:down, :across],
        "upper right": cut[:down, across:],
        "lower left": cut[down:, :across],
        "lower right": cut[down:, across:],
    }
    return min(held, key=lambda name: float(held[name].float().mean()))


def test_vessels_stay_dark_and_left_stays_left_in_every_step() -> None:
    data = RoundData([corner()], CONFIG, WindowConfig(), Augmentation(), 64, 4)
    shapes: list[torch.Tensor] = []
    for step in range(40):
        batch = data.batch(step)
        if batch.truth is not None:
            for truth, pixels in zip(batch.truth, batch.pixels, strict=True):
                assert float(pixels[0][truth].mean()) < float(pixels[0][~truth].mean())
                shapes.append(truth)
        else:
            shapes += [instance for query in batch.queries for instance in query.instances]
    assert len(shapes) > 50
    assert {emptiest_quarter(shape) for shape in shapes} == {"upper right"}
    areas = {int(shape.sum()) for shape in shapes}
    assert len(areas) > 10, "nothing was varied: the test shows nothing"
