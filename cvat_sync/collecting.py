"""An errand's outcome, merged into the round's annotations: what people changed, nothing else.

Knows masks and provenance; knows no command line.
"""

from casebook.annotations import (
    AnnotationSet,
    AnnotationSetBuilder,
    read_annotations,
    write_annotations,
)
from casebook.catalogue import Catalogue
from casebook.corrections import Corrections
from casebook.documents import Document, write_document
from casebook.errors import DataError, StateError
from casebook.labels import LabelSet
from casebook.rounds import Manifest, ManifestCase, RoundFolder
from cvat_sync.compile import compile_round
from cvat_sync.copies import Sent, copy_frame
from cvat_sync.errands import Errand, given_path_name
from cvat_sync.labels import check_there, named_as_pushed
from cvat_sync.pull import deleted_frames, is_complete, list_jobs
from cvat_sync.pulled import pulled_job
from cvat_sync.pushed import need_pushed
from cvat_sync.remote import Gateway

_SHOWN = 5
_DONE = frozenset({"ok", "corrected", "rejected"})


class Collected(Document):
    """What came of an errand."""

    kind: str
    corrections: Corrections
    left_out: tuple[int, ...]
    """Ids of jobs that are not completed."""

    def lines(self) -> tuple[str, ...]:
        """The outcome in words."""
        found = self.corrections
        head = (
            f"round {found.round:02d} {self.kind}: {found.count('accepted')} masks kept, "
            f"{found.count('refined')} changed, {found.count('added')} added, "
            f"{found.count('deleted')} deleted, {len(found.rejected)} frames rejected"
        )
        if not self.left_out:
            return (head,)
        return (head, f"left out: jobs that are not completed: {_ids(self.left_out)}")


def _ids(ids: tuple[int, ...]) -> str:
    return ", ".join(map(str, ids[:_SHOWN])) + (", …" if len(ids) > _SHOWN else "")


def collect(
    folder: RoundFolder,
    errand: Errand,
    gateway: Gateway,
    *,
    parallel: int,
    allow_incomplete: bool = False,
    force: bool = False,
) -> Collected:
    """Read an errand's completed jobs and merge them into annotations.coco.json.

    Raises:
        StateError: it was not sent, jobs are not completed, or the round has been trained already.
        DataError: a mask cannot be used; each is named. Or a label is gone from CVAT.
    """
    if errand.pushed is None:
        raise StateError(f"the {errand.kind} of round {folder.number:02d} is not sent; send it")
    if folder.has("candidate.json") and not force:
        raise StateError(
            f"round {folder.number:02d} has been trained on its annotations already; collect with "
            f"--force, then `make train ROUND={folder.number}` again"
        )
    path = folder.need("annotations.coco.json", f"Run `cvatsync pull --round {folder.number}`.")
    before, given = (
        read_annotations(path),
        read_annotations(folder.file(given_path_name(errand.kind))),
    )
    jobs = list_jobs(gateway, errand.pushed, parallel)
    waiting = tuple(job.id for job in jobs if not is_complete(job))
    if waiting and not allow_incomplete:
        raise StateError(
            f"round {folder.number:02d} {errand.kind}: {len(waiting)} of {len(jobs)} jobs are not "
            f"completed (ids {_ids(waiting)}). Finish them in CVAT or pass --allow-incomplete"
        )
    there = gateway.labels(errand.pushed.project_id)
    if not force:
        check_there(need_pushed(folder).labels, there)
    labels, _ = named_as_pushed(there, need_pushed(folder).labels)
    pulled = [
        pulled_job(job, gateway.job_annotations(job.id), gateway.issues(job.id), labels)
        for job in jobs
        if is_complete(job)
    ]
    manifest, sizes = _manifest_of(folder, errand)
    deleted = deleted_frames(gateway, errand.pushed, parallel)
    compiled = compile_round(manifest, errand.pushed, given, pulled, sizes, deleted=deleted)
    if compiled.refused:
        raise DataError(
            f"round {folder.number:02d} {errand.kind}: {len(compiled.refused)} annotations cannot "
            f"be used: {'; '.join(compiled.refused[:_SHOWN])}. Correct them in CVAT"
        )
    whole = merged(before, given, compiled.annotations, manifest.labels)
    write_document(folder.file(f"{errand.kind}.corrections.json"), compiled.corrections)
    write_annotations(path, whole)
    folder.home.audit(f"collect {errand.kind}", f"round {folder.number:02d}")
    return Collected(kind=errand.kind, corrections=compiled.corrections, left_out=waiting)


def _manifest_of(
    folder: RoundFolder, errand: Errand
) -> tuple[Manifest, dict[str, tuple[int, int]]]:
    """The errand's frames as a manifest, and their heights and widths in px."""
    catalogue, manifest = Catalogue(folder.home), folder.manifest()
    cases, sizes = [], {}
    known = {entry.at.file_name: entry for entry in manifest.cases}
    by_case = {entry.at.case_id: entry for entry in manifest.cases}
    for image in read_annotations(folder.file(given_path_name(errand.kind))).images:
        case = catalogue.get(image.case_id)
        near = by_case[image.case_id]
        entry = known.get(image.file_name) or ManifestCase(
            at=image.ref, patient=near.patient, split=near.split, image_sha256=near.image_sha256
        )
        cases.append(entry)
        sizes[image.file_name] = (case.height_px, case.width_px)
    return manifest.with_(cases=tuple(cases)), sizes


def merged(
    before: AnnotationSet, given: AnnotationSet, after: AnnotationSet, labels: LabelSet
) -> AnnotationSet:
    """The annotations before, with the frames people have finished replaced by what they left.

    A mask nobody touched keeps where it came from. A frame that is new to the round is taken only
    when something is drawn on it: an empty one was perhaps only passed by.
    """
    builder = AnnotationSetBuilder(labels, dict(before.info))
    finished = {image.file_name: image for image in after.images if image.status in _DONE}
    for image in before.images:
        new = finished.pop(image.file_name, None)
        if new is None:
            copy_frame(builder, image, before)
        else:
            copy_frame(builder, new, after, _sent(new.file_name, given))
    for image in finished.values():
        if image.status != "rejected" and after.of_image(image.id):
            copy_frame(builder, image, after, _sent(image.file_name, given))
    return builder.build()


def _sent(name: str, given: AnnotationSet) -> Sent:
    """The masks a frame was sent with, by label and shape."""
    return {
        (given.label_of(entry), entry.segmentation.counts): entry
        for image in given.images
        if image.file_name == name
        for entry in given.of_image(image.id)
    }
