"""Makes sam3 importable and runnable where torch has no CUDA; does nothing where it has.

Knows which lines of sam3 0.1.4 and torchvision 0.28 assume a GPU. Knows nothing of our models.
"""

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# The library object owns the schemas: they vanish when it is collected.
_torchvision_schemas: list[torch.library.Library] = []


def _define_torchvision_schemas() -> None:
    """Declare the two operators torchvision's fakes refer to.

    A CUDA build of torchvision cannot load its extension beside CPU-only torch, so
    torchvision/_meta_registrations.py:163 fails on "operator torchvision::nms does not exist".
    """
    if torch.version.cuda is not None or _torchvision_schemas:
        return
    try:
        _ = torch.ops.torchvision.nms
    except (AttributeError, RuntimeError):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _torchvision_schemas.append(library)


def _undecorated(function: Callable[..., Any] | None = None, **_: object) -> Callable[..., Any]:
    """A decorator that changes nothing, usable with and without arguments."""
    if function is not None:
        return function
    return lambda inner: inner


def _triton_stand_in() -> dict[str, types.ModuleType]:
    """Modules whose decorators do nothing: sam3 only decorates kernels with triton at import."""
    language = types.ModuleType("triton.language")
    triton = types.ModuleType("triton")
    for name in ("constexpr", "tensor", "dtype"):
        setattr(language, name, object)
    for name in ("jit", "autotune", "heuristics"):
        setattr(triton, name, _undecorated)
    triton.Config = dict  # type: ignore[attr-defined]
    triton.language = language  # type: ignore[attr-defined]
    triton.__path__ = []
    return {"triton": triton, "triton.language": language}


_WRITTEN_OUT = 256 * 1024
"""Pairs of a query and a key up to which attention is written out."""


class _Functional:
    """torch.nn.functional with an attention that is quick on a CPU for few tokens.

    The fused CPU kernel's backward pass takes 30 % of a training step of the tiny model; products
    and a softmax take 3 %. Measured with torch 2.13.0. At the real size the products of one global
    block alone would take 1.7 GB: there the fused kernel, which keeps none of them, is used.
    """

    @staticmethod
    def scaled_dot_product_attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout_p: float = 0.0
    ) -> torch.Tensor:
        """Attention with the values of torch's, written out for few tokens."""
        if query.shape[-2] * key.shape[-2] > _WRITTEN_OUT:
            return torch.nn.functional.scaled_dot_product_attention(
                query, key, value, dropout_p=dropout_p
            )
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        shares = torch.softmax(scores, dim=-1)
        if dropout_p:
            shares = torch.nn.functional.dropout(shares, dropout_p)
        return shares @ value

    def __getattr__(self, name: str) -> object:
        return getattr(torch.nn.functional, name)


def import_upstream(names: Sequence[str]) -> dict[str, types.ModuleType]:
    """The named modules of sam3, or of peft, which also loads torchvision.

    A stand-in for triton is there during the import and gone again afterwards.

    It must be gone: torch's own probes for triton would otherwise take it for the real one.
    """
    _define_torchvision_schemas()
    added: dict[str, types.ModuleType] = {}
    if importlib.util.find_spec("triton") is None:
        # Let inductor cache the true answer before the stand-in appears.
        importlib.import_module("torch._inductor.runtime.triton_helpers")
        added = _triton_stand_in()
        sys.modules.update(added)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            modules = {name: importlib.import_module(name) for name in names}
    finally:
        for name in added:
            sys.modules.pop(name, None)
    _patch_for_cpu()
    return modules


def _patch_for_cpu() -> None:
    """Permanent repairs for running without CUDA: pinned memory, roi_align, attention."""
    if torch.cuda.is_available():
        return
    for name in ("sam3.sam.transformer", "sam3.model.vitdet"):
        module = sys.modules.get(name)
        if module is not None:
            vars(module)["F"] = _Functional()
    # geometry_encoders.py:659 and sam3_tracker_base.py:168 pin before moving to the GPU.
    torch.Tensor.pin_memory = _same_tensor  # type: ignore[method-assign, assignment]
    extension = importlib.import_module("torchvision.extension")
    importlib.import_module("torchvision.ops")
    roi_align = sys.modules["torchvision.ops.roi_align"]
    compiled = vars(roi_align)["_roi_align"]
    if not extension._has_ops() and hasattr(compiled, "__wrapped__"):
        # torchvision's Python fallback hides behind torch.compile, which needs a C++ compiler.
        vars(roi_align)["_roi_align"] = compiled.__wrapped__


def _same_tensor(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return tensor


class _CudaToCpu(TorchFunctionMode):
    """Answers requests for device "cuda" and for ``.cuda()`` on the CPU."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


class _ScheduleOnCpu(TorchFunctionMode):
    """Keeps ``torch.linspace`` real: vitdet.py:746 reads its drop-path rates back as numbers."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Build sam3 modules without memory for their weights: names and shapes alone."""
    with torch.device("meta"), _ScheduleOnCpu():
        yield


@contextlib.contextmanager
def cuda_means_cpu() -> Iterator[None]:
    """Run code with a hard-coded "cuda" on the CPU; a no-op where CUDA exists.

    Source: sam3 0.1.4, position_encoding.py:47, decoder.py:281, sam3_tracker_base.py
    (``maskmem_features.cuda``).
    """
    if torch.cuda.is_available():
        yield
    else:
        with _CudaToCpu():
            yield
