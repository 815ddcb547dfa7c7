"""A round's proposals read piece by piece: ten thousand frames take no more memory than ten.

Knows COCO's fields, and nothing of CVAT.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from casebook.annotations import CocoAnnotation, CocoCategory, CocoImage
from casebook.documents import Document
from casebook.errors import DataError, StateError
from cvat_sync.pieces import parsed, pieces

_LISTS = ("images", "annotations", "categories")


class ProposedMask(Document):
    """A proposal with the frame and the label it is for."""

    file_name: str
    label: str
    annotation: CocoAnnotation


class Proposals:
    """The proposals of a round, by the name of their frame.

    Raises:
        StateError: the file is not there.
        DataError: it is not a valid annotation set.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, array[int]] = {}
        """For each mask of a frame: where it begins, how long it is, its label's number."""
        self._labels: dict[int, str] = {}
        try:
            self._read()
        except FileNotFoundError:
            raise StateError(f"{path} is not there; the step that writes it has not run") from None
        except (ValueError, ValidationError) as problem:
            said = problem.errors()[0]["msg"] if isinstance(problem, ValidationError) else problem
            raise DataError(
                f"{path} is not a valid annotation set: {said}; delete it and push again"
            ) from None

    def _read(self) -> None:
        images: dict[int, tuple[str, tuple[int, int]]] = {}
        used: set[int] = set()
        with self._path.open("rb") as stream:
            for piece in pieces(self._path, _LISTS):
                begin, length = piece.begin, piece.n_bytes
                if not piece.is_entry:
                    continue
                if piece.field == "images":
                    image = parsed(stream, begin, length, CocoImage)
                    images[image.id] = image.file_name, (image.height, image.width)
                    self._places[image.file_name] = array("q")
                elif piece.field == "categories":
                    category = parsed(stream, begin, length, CocoCategory)
                    self._labels[category.id] = category.name
                else:
                    annotation = parsed(stream, begin, length, CocoAnnotation)
                    if annotation.image_id not in images:
                        raise ValueError(f"annotation {annotation.id} is of an unknown image")
                    name, hw = images[annotation.image_id]
                    if annotation.segmentation.size != hw:
                        height, width = annotation.segmentation.size
                        raise ValueError(
                            f"annotation {annotation.id} is of {height}×{width} px and its image "
                            f"{name} of {hw[0]}×{hw[1]}"
                        )
                    self._places[name].extend((begin, length, annotation.category_id))
                    used.add(annotation.category_id)
        if used - set(self._labels):
            raise ValueError(f"category {min(used - set(self._labels))} is unknown")
        self._used = frozenset(self._labels[number] for number in used)

    @property
    def file_names(self) -> frozenset[str]:
        """Names of the frames it speaks of."""
        return frozenset(self._places)

    @property
    def labels(self) -> frozenset[str]:
        """Names of the labels that occur."""
        return self._used

    def count(self, file_name: str) -> dict[str, int]:
        """Number of masks on a frame, by label."""
        numbers = self._places.get(file_name, array("q"))[2::3]
        return dict(Counter(self._labels[number] for number in numbers))

    def of(self, file_names: Sequence[str]) -> tuple[ProposedMask, ...]:
        """The masks on some frames, read from the file now."""
        found = []
        with self._path.open("rb") as stream:
            for name in file_names:
                places = self._places.get(name, array("q"))
                for begin, length in zip(places[0::3], places[1::3], strict=True):
                    annotation = parsed(stream, begin, length, CocoAnnotation)
                    label = self._labels[annotation.category_id]
                    found.append(ProposedMask(file_name=name, label=label, annotation=annotation))
        return tuple(found)
