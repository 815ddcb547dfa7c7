"""What a view's angles add to a concept's text: learnt with the concept path.

Knows no label.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from casebook.documents import write_bytes
from casebook.errors import ModelError, TrainingError
from segmenter.heads import view_numbers

FILE = "view.safetensors"


class ViewEmbedding(nn.Module):
    """Sine and cosine of the angles, as channels of the text; nothing for an unknown view."""

    def __init__(self, width: int) -> None:
        """One that adds nothing yet.

        Args:
            width: Channels of the text.
        """
        super().__init__()
        self.join = nn.Linear(view_numbers([None]).shape[1], width, bias=False)
        nn.init.zeros_(self.join.weight)

    def forward(self, views: Float[Tensor, "q 5"]) -> Float[Tensor, "q c"]:
        """What is added to every word of each query."""
        added: Tensor = self.join(views)
        return added


def save_view(embedding: nn.Module, folder: Path) -> None:
    """Write an embedding beside its adapter, atomically.

    Raises:
        TrainingError: a weight is not finite.
    """
    state = {name: value.detach().cpu() for name, value in embedding.state_dict().items()}
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise TrainingError("the view's embedding holds NaN or infinity; train with a lower lr")
    write_bytes(folder / FILE, save(state))


def load_view(folder: Path, width: int) -> ViewEmbedding | None:
    """The embedding kept beside an adapter, frozen; None when it has none.

    Raises:
        ModelError: the file is damaged or belongs to a model of other sizes.
    """
    path = folder / FILE
    if not path.exists():
        return None
    found = ViewEmbedding(width)
    try:
        state = load(path.read_bytes())
        found.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as problem:
        line = str(problem).splitlines()[0]
        raise ModelError(f"{path}: not this model's ({line}); train again") from None
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise ModelError(f"{path}: holds NaN or infinity; train it again")
    return found.requires_grad_(requires_grad=False)
