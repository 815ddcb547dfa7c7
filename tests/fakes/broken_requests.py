"""Requests somebody got wrong, or means ill: bytes, types, numbers, bombs, depth."""

import base64
import json
import random
from typing import Any

import numpy as np

from casebook.catalogue import png_bytes

PIXELS = np.full((48, 64), 180, dtype=np.uint8)
PIXELS[10:16, 10:40] = 60
IMAGE = base64.b64encode(png_bytes(PIXELS)).decode()
BOX = {"image": IMAGE, "pos_points": [], "neg_points": [], "obj_bbox": [[8, 8], [42, 20]]}


def broken(dice: random.Random) -> tuple[bytes, str]:
    """A body and its content type."""
    values: list[Any] = [
        None,
        True,
        -1,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x" * dice.randint(0, 2000),
        [],
        {},
        [[1, 2]],
        [[dice.uniform(-9e9, 9e9), 3]],
        [None] * dice.randint(1, 600),
        base64.b64encode(dice.randbytes(dice.randint(1, 300))).decode(),
        base64.b64encode(_bomb()).decode(),
        base64.b64encode(base64.b64decode(IMAGE)[: dice.randint(1, 90)]).decode(),
    ]
    kind = dice.randrange(6)
    if kind == 0:
        return dice.randbytes(dice.randint(0, 500)), "application/json"
    if kind == 1:
        depth = dice.choice([10, 500, 100_000])
        return dice.choice([b"[" * depth, b'{"image":' * depth]), "application/json"
    if kind == 2:
        text = json.dumps(BOX)
        return text[: dice.randrange(len(text))].encode(), "application/json"
    body: dict[str, Any] = dict(BOX)
    for _ in range(dice.randint(1, 3)):
        name = dice.choice([*BOX, "text_prompts", "threshold", "prewarm", "unknown"])
        body[name] = dice.choice(values)
    if kind == 3:
        body = {key: value for key, value in body.items() if dice.random() < 0.6}
    return json.dumps(body).encode(), dice.choice(["application/json", "text/plain", ""])


def _bomb() -> bytes:
    """A small PNG that claims a billion pixels."""
    head = bytearray(png_bytes(np.zeros((2, 2), dtype=np.uint8)))
    head[16:24] = (32_000).to_bytes(4, "big") * 2
    return bytes(head)
