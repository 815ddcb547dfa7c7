"""What is drawn on the frames of the catalogue: by the experts of the import, or in a round."""

from collections.abc import Callable

from casebook.annotations import AnnotationSet, read_annotations
from casebook.cases import FrameRef
from casebook.catalogue import Catalogue
from casebook.home import Home
from casebook.masks import Mask
from casebook.rounds import RoundFolder

Drawings = Callable[[FrameRef], tuple[tuple[str, Mask], ...]]
"""Label and mask of everything drawn on a frame; nothing where nobody drew."""


def expert_drawings(catalogue: Catalogue) -> Drawings:
    """What came with the cases."""

    def of(ref: FrameRef) -> tuple[tuple[str, Mask], ...]:
        found = catalogue.expert_annotations(ref.case_id)
        return _by_frame(found).get(ref, ()) if found else ()

    return of


def round_drawings(home: Home, number: int) -> Drawings:
    """What the annotators of a round drew and reviewed.

    Raises:
        StateError: the round has not been pulled.
    """
    path = RoundFolder(home, number).need(
        "annotations.coco.json", f"cvatsync pull --round {number}"
    )
    found = _by_frame(read_annotations(path))
    return lambda ref: found.get(ref, ())


def _by_frame(found: AnnotationSet) -> dict[FrameRef, tuple[tuple[str, Mask], ...]]:
    """Drawings by frame; what is pending or rejected has none."""
    images = {i.id: i.ref for i in found.images if i.status in {"ok", "corrected"}}
    names = {category.id: category.name for category in found.categories}
    drawn: dict[FrameRef, list[tuple[str, Mask]]] = {}
    for entry in found.annotations:
        if entry.image_id in images:
            pair = (names[entry.category_id], entry.mask)
            drawn.setdefault(images[entry.image_id], []).append(pair)
    return {ref: tuple(pairs) for ref, pairs in drawn.items()}
