"""In what arithmetic a bundle's graphs can run: float32 always, float16 or int8 where shipped.

What was tried, measured and refused stands in the bundle's `precisions.json`. Never loads torch.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook.documents import Document
from casebook.errors import ConfigError
from export.bundle import AUTOMATIC, DECODER, ENCODER

FILE = "precisions.json"
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
GRAPHS = (ENCODER, DECODER, AUTOMATIC)
_ON_GPU = {"cuda", "tensorrt"}


class Trial(Document):
    """One arithmetic, measured beside float32 in the same run."""

    precision: Precision
    shipped: bool
    reason: str
    """Why it is shipped or not, in words."""
    max_abs: float
    """Largest difference of a logit …"""
    mask_iou: float = Field(ge=0, le=1)
    """… smallest overlap of the masks …"""
    mask_iou_required: float
    prompts: int = Field(ge=0)
    """… over so many prompts on frozen frames."""
    speed_ratio: float | None = None
    """Time of float32 over this one's on `provider`; nothing where it was not measured."""
    provider: str
    size_mb: float = Field(ge=0)
    size_fp32_mb: float = Field(ge=0)


class Precisions(Document):
    """Everything that was tried for one bundle."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    trials: tuple[Trial, ...]


def file_of(file: str, precision: Precision) -> str:
    """What a graph is called in one arithmetic: `encoder.onnx`, `encoder.int8.onnx`."""
    return file if precision == "fp32" else f"{Path(file).stem}.{precision}.onnx"


def shipped(files: Collection[str]) -> tuple[Precision, ...]:
    """The arithmetics all of whose graphs a bundle lists."""
    return tuple(one for one in PRECISIONS if all(file_of(graph, one) in files for graph in GRAPHS))


def precision_for(
    files: Collection[str], provider: str | None, wanted: Precision | None = None
) -> Precision:
    """The one asked for; else int8 on the CPU and float16 on a GPU where they are shipped.

    Args:
        files: those the manifest lists, found whole.
        provider: what computes: `cpu`, `cuda` …
        wanted: by the operator.

    Raises:
        ConfigError: the bundle does not have the one asked for.
    """
    there = shipped(files)
    if wanted is not None:
        if wanted not in there:
            raise ConfigError(
                f"the bundle has no {wanted} graphs; it has: {', '.join(there)}; leave "
                f"--precision out ({FILE} says what was tried)"
            )
        return wanted
    better: Precision = "fp16" if provider in _ON_GPU else "int8" if provider == "cpu" else "fp32"
    return better if better in there else "fp32"
