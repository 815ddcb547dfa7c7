"""The findings of a round's finished jobs, sealed or not. Knows no command line."""

from casebook.annotations import AnnotationSet, read_annotations
from casebook.catalogue import Catalogue
from casebook.corrections import Corrections
from casebook.documents import read_document
from casebook.rounds import RoundFolder
from cvat_sync.cines import frame_sizes
from cvat_sync.comment import Comment, CommentPlan, comments_on, plan_comments
from cvat_sync.compile import compile_round
from cvat_sync.errands import Errand, given_path_name
from cvat_sync.findings import QualityFinding, findings
from cvat_sync.labels import check_there, named_as_pushed
from cvat_sync.pull import deleted_frames, is_complete, list_jobs
from cvat_sync.pulled import pulled_job
from cvat_sync.pushed import Pushed
from cvat_sync.remote import Gateway, RemoteJob
from cvat_sync.rest import Rest
from cvat_sync.settings import ExchangeConfig


def plan_quality(
    folder: RoundFolder, pushed: Pushed, gateway: Gateway, rest: Rest, config: ExchangeConfig
) -> CommentPlan:
    """The comments a round's completed jobs deserve and do not have yet.

    Raises:
        DataError: a task or label of the round is gone from CVAT.
        RemoteError: CVAT refused or stayed unreachable.
    """
    jobs = [job for job in list_jobs(gateway, pushed, config.parallel) if is_complete(job)]
    annotations, corrections = _state(folder, pushed, jobs, gateway, config.parallel)
    found = findings(
        annotations,
        corrections,
        folder.manifest().labels,
        Catalogue(folder.home).frame,
        config.quality,
    )
    return plan_comments(folder.number, comments_on(pushed, jobs, found), rest)


def plan_reasons(
    folder: RoundFolder, errand: Errand, gateway: Gateway, rest: Rest, parallel: int
) -> CommentPlan:
    """Comments that say why a frame is looked at again."""
    if errand.pushed is None:
        return CommentPlan(round=errand.round, comments=())
    jobs = list_jobs(gateway, errand.pushed, parallel)
    reasons = {name: why for task in errand.tasks for name, why in task.why.items()}
    given = read_annotations(folder.file(given_path_name(errand.kind)))
    found = tuple(
        QualityFinding(
            file_name=image.file_name,
            label="",
            kind="second look",
            text=reasons[image.file_name],
            box_xyxy=(0, 0, image.width - 1, image.height - 1),
        )
        for image in given.images
        if image.file_name in reasons
    )
    wanted: tuple[Comment, ...] = comments_on(errand.pushed, jobs, found)
    return plan_comments(errand.round, wanted, rest)


def _state(
    folder: RoundFolder,
    pushed: Pushed,
    jobs: list[RemoteJob],
    gateway: Gateway,
    parallel: int,
) -> tuple[AnnotationSet, Corrections]:
    """What the experts left and how it differs from the proposals: sealed, else read now."""
    if folder.has("annotations.coco.json"):
        return (
            read_annotations(folder.file("annotations.coco.json")),
            read_document(folder.file("corrections.json"), Corrections),
        )
    there = gateway.labels(pushed.project_id)
    check_there(pushed.labels, there)
    labels, _ = named_as_pushed(there, pushed.labels)
    pulled = [
        pulled_job(job, gateway.job_annotations(job.id), gateway.issues(job.id), labels)
        for job in jobs
    ]
    manifest = folder.manifest()
    names = {name for task in pushed.tasks for name in task.frames}
    sizes = frame_sizes(names, Catalogue(folder.home))
    proposals = read_annotations(folder.file("proposals.coco.json"))
    deleted = deleted_frames(gateway, pushed, parallel)
    compiled = compile_round(manifest, pushed, proposals, pulled, sizes, deleted=deleted)
    return compiled.annotations, compiled.corrections
