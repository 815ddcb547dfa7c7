"""The gradients of one step, however many parts or processes a batch is divided among.

Randomness of a step depends on its number alone. Knows no optimiser, model or data.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed
from torch import Tensor, nn

from casebook.errors import TrainingError

log = logging.getLogger(__name__)

B = TypeVar("B")


@dataclass(frozen=True)
class Part:
    """Which share of a batch is meant: part `index` of `count`."""

    index: int = 0
    count: int = 1

    def rows(self, n: int) -> slice:
        """Its rows of n; parts differ by one row at most and cover all."""
        return slice(n * self.index // self.count, n * (self.index + 1) // self.count)


WHOLE = Part()


@runtime_checkable
class StepConfig(Protocol):
    """What a step reads of a training's settings."""

    @property
    def seed(self) -> int:
        """Of the training."""
        ...

    @property
    def precision(self) -> str:
        """`float32` or `bfloat16`."""
        ...

    @property
    def accumulate(self) -> int:
        """Parts of a batch in one process."""
        ...


class Step(Generic[B]):
    """Computes a step's gradients; knows its place among the processes."""

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        loss: Callable[[B, torch.Generator], Mapping[str, Tensor]],
        part_loss: Callable[[B, torch.Generator, Part], Mapping[str, Tensor]] | None,
        config: StepConfig,
    ) -> None:
        """Steps of one training.

        Args:
            named: The trained parameters.
            loss: The loss of a whole batch.
            part_loss: The share of a part in it, where a batch can be divided.
            config: Seed, precision and parts.
        """
        self._named, self._loss, self._part_loss, self._config = named, loss, part_loss, config
        self._parts = config.accumulate if part_loss is not None else 1
        self._was_divided = False
        self._rank, self._world = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._rank = torch.distributed.get_rank()
            self._world = torch.distributed.get_world_size()

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self._rank == 0

    def gradients(self, batches: Callable[[int], B], step: int) -> dict[str, float]:
        """Leave the gradients of a step in the parameters; the loss and its figures come back.

        When memory runs out, the batch is divided in two for the rest of the training, once.

        Raises:
            TrainingError: memory ran out again, or the batch cannot be divided.
        """
        own = self._part_loss is None
        batch = batches(step * self._world + self._rank if own else step)
        while True:
            try:
                return self._together(self._run(batch, step))
            except RuntimeError as problem:
                if not _is_memory(problem):
                    raise
                self._divide(step, problem)

    def _divide(self, step: int, problem: RuntimeError) -> None:
        if self._part_loss is None or self._was_divided or self._world > 1:
            raise TrainingError(
                f"step {step}: out of memory in {self._parts} parts of a batch; lower train.batch, "
                "raise train.accumulate, or train on a larger device"
            ) from problem
        self._was_divided = True
        self._parts *= 2
        log.warning("step %d: out of memory; batches are taken in %d parts", step, self._parts)
        for parameter in self._named.values():
            parameter.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(self, batch: B, step: int) -> dict[str, float]:
        """Backward over this process's parts; figures are means, the loss a sum of shares."""
        config = self._config
        own = self._part_loss is None
        seed = (
            config.seed * 1_000_003 + (step * self._world + self._rank if own else step)
        ) % 2**63
        count = self._parts * (1 if own else self._world)
        device = next(iter(self._named.values())).device.type
        figures: dict[str, list[float]] = {}
        for index in range(self._parts):
            part = Part(self._rank * self._parts + index if not own else 0, count)
            # Layers' own noise differs between parts; what is drawn for the batch does not.
            torch.manual_seed(seed + 7_919 * part.index)
            generator = torch.Generator().manual_seed(seed)
            with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
                if self._part_loss is None:
                    terms = self._loss(batch, generator)
                else:
                    terms = self._part_loss(batch, generator, part)
            if terms["loss"].requires_grad:
                terms["loss"].backward()
            for name, value in terms.items():
                figures.setdefault(name, []).append(float(value.detach()))
        return {
            name: sum(values) if name == "loss" else sum(values) / len(values)
            for name, values in figures.items()
        }

    def _together(self, terms: dict[str, float]) -> dict[str, float]:
        """Every process ends with the same gradients and the same loss."""
        if self._world == 1:
            return terms
        scale = 1.0 / self._world if self._part_loss is None else 1.0
        for parameter in self._named.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in self._named.values() if parameter.grad is not None]
        device = grads[0].device
        flat = torch.cat(
            [*(grad.flatten() for grad in grads), torch.tensor([terms["loss"]], device=device)]
        )
        torch.distributed.all_reduce(flat)
        flat *= scale
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad))
            start += grad.numel()
        return {**terms, "loss": float(flat[-1])}


def _is_memory(problem: RuntimeError) -> bool:
    """Whether memory ran out, on a GPU or in the processor's own allocator."""
    text = str(problem)
    return isinstance(problem, torch.OutOfMemoryError) or "DefaultCPUAllocator" in text
