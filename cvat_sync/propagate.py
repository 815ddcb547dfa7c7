"""Whole cines for a second round of work: the expert's mask and what a tracker carried from it.

The tracker runs in a worker, asked for by name; here its answer becomes tasks whose frames are a
run in order. Knows no model.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from casebook.annotations import AnnotationSet, AnnotationSetBuilder, CocoImage, read_annotations
from casebook.cases import CaseId
from casebook.errors import StateError
from casebook.labels import LabelSet
from casebook.rounds import RoundFolder
from cvat_sync.copies import copy_frame
from cvat_sync.errands import Errand, ErrandTask, given_path_name, keep, kept, key_of

KIND = "cines"
TRACKED = "tracked.coco.json"
_USABLE = frozenset({"ok", "corrected"})


def plan_cines(folder: RoundFolder, cases: Sequence[str] = ()) -> tuple[Errand, AnnotationSet]:
    """A task for each cine with carried masks, and the masks it is sent with.

    What was planned before stays as it is; cines that were not are added to it.

    Args:
        folder: The round, pulled, with the worker's answer.
        cases: Only these; by default all.

    Raises:
        StateError: a case has no carried masks, or there are none at all.
    """
    before = kept(folder, KIND)
    how = f"Run `cvatsync pull --round {folder.number}` first."
    annotations = read_annotations(folder.need("annotations.coco.json", how))
    tracked = read_annotations(folder.need(TRACKED, "Ask for it with `cvatsync propagate`."))
    runs = _runs(tracked)
    unknown = sorted(set(cases) - set(runs))
    if unknown:
        raise StateError(
            f"round {folder.number:02d}: no mask was carried through {', '.join(unknown)}; known "
            f"are {', '.join(sorted(runs)[:5])}"
        )
    planned = {key_of(folder, KIND, case): case for case in runs}
    sent = {planned.get(task.key) for task in before.tasks} if before else set()
    wanted = {
        case: runs[case]
        for case in sorted(runs)
        if case not in sent and (not cases or case in cases)
    }
    labels = folder.manifest().labels
    if before is not None and not wanted:
        return before, read_annotations(folder.file(given_path_name(KIND)))
    given = given_masks(annotations, tracked, wanted, labels)
    counts = {image.file_name: len(given.of_image(image.id)) for image in given.images}
    tasks = []
    for case in wanted:
        names = sorted(image.file_name for image in given.images if image.case_id == case)
        tasks.append(
            ErrandTask(
                key=key_of(folder, KIND, case),
                name=f"round {folder.number:02d} cine {case}",
                frames=tuple(names),
                masks=sum(counts[name] for name in names),
            )
        )
    if not tasks:
        raise StateError(f"round {folder.number:02d}: no mask was carried through any cine")
    if before is not None:
        earlier = read_annotations(folder.file(given_path_name(KIND)))
        given, tasks = joined(earlier, given, labels), [*before.tasks, *tasks]
    errand = Errand(kind=KIND, round=folder.number, tasks=tuple(tasks), at=datetime.now(UTC))
    return errand, given


def keep_cines(folder: RoundFolder, errand: Errand, given: AnnotationSet) -> None:
    """Write the plan down, unless it is the one kept."""
    if kept(folder, KIND) != errand:
        keep(folder, errand, given)


def _runs(tracked: AnnotationSet) -> dict[CaseId, list[CocoImage]]:
    """The carried frames of each case."""
    found: dict[CaseId, list[CocoImage]] = {}
    for image in tracked.images:
        found.setdefault(image.case_id, []).append(image)
    return found


def given_masks(
    annotations: AnnotationSet,
    tracked: AnnotationSet,
    wanted: dict[CaseId, list[CocoImage]],
    labels: LabelSet,
) -> AnnotationSet:
    """The expert's masks on the annotated frames and the carried ones around them."""
    builder = AnnotationSetBuilder(labels)
    seen: set[str] = set()
    for source, is_expert in ((annotations, True), (tracked, False)):
        for image in source.images:
            if image.case_id not in wanted or (is_expert and image.status not in _USABLE):
                continue
            if image.file_name not in seen:  # the expert has drawn there too, and knows better
                seen.add(image.file_name)
                copy_frame(builder, image, source)
    return builder.build()


def joined(first: AnnotationSet, second: AnnotationSet, labels: LabelSet) -> AnnotationSet:
    """Two sets of different frames as one."""
    builder = AnnotationSetBuilder(labels)
    for source in (first, second):
        for image in source.images:
            copy_frame(builder, image, source)
    return builder.build()
