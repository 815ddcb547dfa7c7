"""How two rounds differ: cases, labels, masks, origins and models. Knows no images."""

from collections import Counter

from pydantic import Field

from casebook import masks
from casebook.annotations import AnnotationSet, CocoAnnotation, read_annotations
from casebook.content import content_of
from casebook.documents import Document
from casebook.home import Home
from casebook.metrics import iou
from casebook.registry import Registry
from casebook.rounds import Manifest, RoundFolder


class MaskDifference(Document):
    """One label of one frame that both rounds annotated."""

    file_name: str
    label: str
    change: str
    """added, removed, or redrawn."""
    iou: float | None = Field(default=None, ge=0, le=1)
    """Agreement of the two masks, where both are there."""
    origins: tuple[str, str]
    """Who made it, in the first and in the second round; empty where it is not."""


class RoundSide(Document):
    """One of the two rounds."""

    round: int
    content_sha256: str
    cases: int
    annotated: int
    """Frames with annotations; 0 before the pull."""
    masks: int
    labels: dict[str, int]
    """Masks by label."""
    origins: dict[str, int]
    """Masks by origin."""
    proposed_by: dict[str, int]
    """Masks by the model that proposed them."""
    trained: tuple[str, ...]
    """Models trained in this round."""


class RoundDiff(Document):
    """What changed from one round to another."""

    sides: tuple[RoundSide, RoundSide]
    only_first: tuple[str, ...]
    """Cases of the first round alone."""
    only_second: tuple[str, ...]
    both: tuple[str, ...]
    frozen_equal: bool
    """Whether both are scored on the same validation and test frames."""
    labels_added: tuple[str, ...]
    """Of the label sets."""
    labels_removed: tuple[str, ...]
    changes: tuple[MaskDifference, ...]
    """Masks that differ in frames both annotated."""
    unchanged: int
    """Masks that are the same in both."""


def diff_rounds(home: Home, first: int, second: int) -> RoundDiff:
    """Compare two rounds.

    Raises:
        StateError: one has no manifest.
        DataError: a document is damaged.
    """
    folders = RoundFolder(home, first), RoundFolder(home, second)
    one, two = (folder.manifest() for folder in folders)
    drawn_one, drawn_two = (_annotations(folder) for folder in folders)
    changes, unchanged = _compare(drawn_one, drawn_two)
    cases_one, cases_two = ({case.at.case_id for case in each.cases} for each in (one, two))
    names_one, names_two = ([label.name for label in each.labels.labels] for each in (one, two))
    return RoundDiff(
        sides=(_side(folders[0], one, drawn_one), _side(folders[1], two, drawn_two)),
        only_first=tuple(sorted(cases_one - cases_two)),
        only_second=tuple(sorted(cases_two - cases_one)),
        both=tuple(sorted(cases_one & cases_two)),
        frozen_equal=_frozen(one) == _frozen(two),
        labels_added=tuple(name for name in names_two if name not in names_one),
        labels_removed=tuple(name for name in names_one if name not in names_two),
        changes=changes,
        unchanged=unchanged,
    )


def _annotations(folder: RoundFolder) -> AnnotationSet:
    path = folder.file("annotations.coco.json")
    return read_annotations(path) if path.exists() else AnnotationSet()


def _frozen(manifest: Manifest) -> tuple[set[tuple[str, str]], ...]:
    return tuple(
        {(case.at.file_name, case.image_sha256) for case in part}
        for part in (manifest.val, manifest.test)
    )


def _side(folder: RoundFolder, manifest: Manifest, drawn: AnnotationSet) -> RoundSide:
    entries = drawn.annotations
    return RoundSide(
        round=folder.number,
        content_sha256=content_of(folder).content_sha256,
        cases=len(manifest.cases),
        annotated=len(drawn.images),
        masks=len(entries),
        labels=dict(sorted(Counter(drawn.label_of(entry) for entry in entries).items())),
        origins=dict(sorted(Counter(entry.origin.value for entry in entries).items())),
        proposed_by=dict(
            sorted(Counter(entry.model_id for entry in entries if entry.model_id).items())
        ),
        trained=tuple(
            card.model_id for card in Registry(folder.home).cards() if card.round == folder.number
        ),
    )


def _compare(one: AnnotationSet, two: AnnotationSet) -> tuple[tuple[MaskDifference, ...], int]:
    """Masks by frame and label; several of one label are compared in the order they come."""
    first, second = _named(one), _named(two)
    frames = {image.file_name for image in one.images} & {image.file_name for image in two.images}
    found, same = [], 0
    for key in sorted({*first, *second}):
        if key[0] not in frames:
            continue
        before, after = first.get(key), second.get(key)
        origins = tuple(entry.origin.value if entry else "" for entry in (before, after))
        change, overlap = "redrawn", None
        if before is None or after is None:
            change = "added" if before is None else "removed"
        elif before.mask == after.mask and origins[0] == origins[1]:
            same += 1
            continue
        elif before.mask.hw == after.mask.hw:
            overlap = float(iou(masks.decode(before.mask), masks.decode(after.mask)))
        found.append(
            MaskDifference(
                file_name=key[0], label=key[1], change=change, iou=overlap,
                origins=(origins[0], origins[1]),
            )
        )  # fmt: skip
    return tuple(found), same


def _named(drawn: AnnotationSet) -> dict[tuple[str, str, int], CocoAnnotation]:
    names = {image.id: image.file_name for image in drawn.images}
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for entry in drawn.annotations:
        key = (names[entry.image_id], drawn.label_of(entry))
        found[(*key, seen[key])] = entry
        seen[key] += 1
    return found
