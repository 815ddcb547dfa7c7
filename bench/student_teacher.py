"""Seconds of the real-size SAM 3's image encoder for one picture: random weights, this processor.

``python -m bench.student_teacher THREADS`` prints them and the side of its square, px. The text
encoder, which is not asked, is left small.
"""

import sys
import time

import torch

from segmenter.sam3 import REAL, Sam3Config, build


def encoder_s(threads: int, sizes: Sam3Config = REAL) -> tuple[float, int]:
    """One pass of the vision backbone, float32, torch eager; and the side of the square."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build(sizes.model_copy(update={"text_layers": 1})).eval()
    pixels = torch.rand(1, 3, sizes.side_px, sizes.side_px) * 2 - 1
    with torch.inference_mode():
        started = time.perf_counter()
        model.encode(pixels)
        return time.perf_counter() - started, sizes.side_px


if __name__ == "__main__":
    print(*encoder_s(int(sys.argv[1])))
