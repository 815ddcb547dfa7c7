"""Whole cines as tasks: the frames of a run in order, of which one is to be annotated.

The others show the motion; what people draw on them comes along. Knows no server.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from casebook.cases import FrameRef
from casebook.catalogue import Catalogue
from casebook.errors import DataError
from cvat_sync.work import Work

Size = tuple[int, int]
"""Height and width, in px."""


def runs(manifest: Work, catalogue: Catalogue) -> tuple[tuple[str, ...], ...]:
    """File names of each case's run, in order: all frames that are kept, by case."""
    found: dict[str, set[int]] = {}
    for entry in manifest.cases:
        case = catalogue.get(entry.at.case_id)
        found.setdefault(entry.at.case_id, set(case.stored_frames)).add(entry.at.frame)
    return tuple(
        tuple(FrameRef(case_id=case_id, frame=frame).file_name for frame in sorted(frames))
        for case_id, frames in sorted(found.items())
    )


def refs(names: Iterable[str]) -> tuple[FrameRef, ...]:
    """The frames some file names stand for.

    Raises:
        DataError: a name is not one of ours.
    """
    found = []
    for name in names:
        ref = FrameRef.from_file_name(name)
        if ref is None:
            raise DataError(f"{name!r} is not a frame's name; expected CASE.f00000.png")
        found.append(ref)
    return tuple(found)


def frame_paths(names: Sequence[str], catalogue: Catalogue) -> Mapping[str, Path]:
    """Where each frame lies.

    Raises:
        DataError: a frame is not kept any more.
    """
    paths = {ref.file_name: catalogue.frame_path(ref) for ref in refs(names)}
    missing = sorted(name for name, path in paths.items() if not path.exists())
    if missing:
        raise DataError(
            f"{len(missing)} frames are missing ({', '.join(missing[:3])} …); nothing was sent. "
            "Import their cases again"
        )
    return paths


def frame_sizes(names: Iterable[str], catalogue: Catalogue) -> dict[str, Size]:
    """Height and width of each frame: all frames of a case have the same."""
    sizes: dict[str, Size] = {}
    known: dict[str, Size] = {}
    for ref in refs(names):
        if ref.case_id not in known:
            case = catalogue.get(ref.case_id)
            known[ref.case_id] = (case.height_px, case.width_px)
        sizes[ref.file_name] = known[ref.case_id]
    return sizes


def n_cases(names: Iterable[str]) -> int:
    """How many cases some frames are of."""
    return len({ref.case_id for ref in refs(names)})
