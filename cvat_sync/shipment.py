"""A round on its way into CVAT: project, labels, tasks, proposals, assignees, found or made.

What was made is found again by the key we wrote, never by name; what people have begun is never
undone. Knows neither the SDK nor the files of a round.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tenacity import Retrying

from casebook.catalogue import Catalogue
from casebook.errors import DataError, MaskError, UnreachableError
from casebook.labels import LabelSet
from cvat_sync.cines import frame_paths
from cvat_sync.jobs import assign, user_ids
from cvat_sync.labels import check_renamed, label_changes
from cvat_sync.plan import PlannedTask, PushPlan
from cvat_sync.proposals import Proposals, ProposedMask
from cvat_sync.pushed import PushedTask
from cvat_sync.remote import (
    NewTask,
    RemoteAnnotations,
    RemoteLabel,
    RemoteProject,
    RemoteTask,
    Server,
)
from cvat_sync.shapes import points_of, shape_of

Tell = Callable[[str], None]
_ASKERS = 3
"""Threads that ask for what can be waited for beside other work."""


@dataclass(frozen=True)
class Drawn:
    """A proposal with the points of its mask as CVAT takes them."""

    proposal: ProposedMask
    points: Sequence[int]


class Shipment:
    """One push in progress: what it has found and made in CVAT."""

    def __init__(
        self,
        gateway: Server,
        retrying: Callable[[], Retrying],
        plan: PushPlan,
        proposals: Proposals,
        catalogue: Catalogue,
    ) -> None:
        self._gateway, self._retrying, self._plan = gateway, retrying, plan
        self._proposals, self._catalogue = proposals, catalogue
        self._assignees = user_ids(gateway, plan.assignees)
        self._project_id = 0
        self._is_new_project = False
        self._pen = ThreadPoolExecutor(max_workers=1)
        self._drawn: dict[str, Future[tuple[Drawn, ...]]] = {}
        self._asker = ThreadPoolExecutor(max_workers=_ASKERS)
        self._looked: Future[tuple[RemoteProject, ...]] | None = None
        self._named: Future[dict[str, RemoteLabel]] | None = None
        self._ask_names: Callable[[], Future[dict[str, RemoteLabel]]] | None = None
        self._asking = threading.Lock()

    def __enter__(self) -> "Shipment":
        """Begin: masks are drawn while CVAT is waited for."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Drop what is drawn and not sent."""
        self._pen.shutdown(cancel_futures=True)
        self._asker.shutdown(cancel_futures=True)

    def look(self) -> None:
        """Ask for the projects while something else is done; nothing is changed."""
        self._looked = self._asker.submit(self._gateway.projects)

    def _projects(self) -> tuple[RemoteProject, ...]:
        """The projects: as they were asked for ahead, the first time."""
        looked, self._looked = self._looked, None
        return self._gateway.projects() if looked is None else looked.result()

    def draw(self, tasks: Sequence[PlannedTask]) -> None:
        """Draw the masks of some tasks ahead, one task after the other."""
        for task in tasks:
            self._drawn[task.key] = self._pen.submit(self._draw, task.frames)

    def _draw(self, names: Sequence[str]) -> tuple[Drawn, ...]:
        drawn = []
        for proposal in self._proposals.of(names):
            try:
                drawn.append(Drawn(proposal, points_of(proposal.annotation)))
            except MaskError as problem:
                raise DataError(
                    f"the proposal of {proposal.label} on {proposal.file_name} cannot be sent: "
                    f"{problem}. Delete proposals.coco.json and push again"
                ) from None
        return tuple(drawn)

    def project(self, labels: LabelSet, known: Mapping[str, int], tell: Tell) -> RemoteProject:
        """Our project, made if there is none, with all labels and attributes of the label set.

        The labels of one that was there are seen to before anything else is done in it; a new one
        was made with them, so that their ids are asked for while its tasks are made.

        Raises:
            DataError: a label was renamed in CVAT, or takes another kind of shape.
        """
        found: RemoteProject = self._retrying()(self._find_or_create, labels)
        self._project_id = found.id
        see_to_labels = partial(self._see_to_labels, found, labels, known, tell)
        self._ask_names = lambda: self._asker.submit(see_to_labels)
        self._named = self._ask_names()
        if not self._is_new_project:
            self._named.result()
        return found

    @property
    def labels(self) -> dict[str, RemoteLabel]:
        """The project's labels by name; waited for where they are not yet known.

        Raises:
            UnreachableError: CVAT did not say; it is asked anew, for whoever tries again.
        """
        named = self._named
        if named is None or self._ask_names is None:
            return {}
        try:
            return named.result()
        except UnreachableError:
            with self._asking:
                if self._named is named:
                    self._named = self._ask_names()
            raise

    def _see_to_labels(
        self, project: RemoteProject, labels: LabelSet, known: Mapping[str, int], tell: Tell
    ) -> dict[str, RemoteLabel]:
        remote = self._gateway.labels(project.id)
        check_renamed(known, remote)
        changes = label_changes(labels, remote)
        if changes.specs:
            for line in changes.words:
                tell(f"project {project.id} {project.name!r} gets the {line}")
            remote = self._retrying()(self._change_labels, labels)
        return {label.name: label for label in remote}

    def _change_labels(self, labels: LabelSet) -> tuple[RemoteLabel, ...]:
        """Look before each attempt: an answer may have been lost after its effect."""
        changes = label_changes(labels, self._gateway.labels(self._project_id))
        if changes.specs:
            self._gateway.change_labels(self._project_id, changes.specs)
        return self._gateway.labels(self._project_id)

    def _find_or_create(self, labels: LabelSet) -> RemoteProject:
        plan, projects = self._plan, self._projects()
        ours = [one for one in projects if one.key == plan.project_key]
        named = [one for one in ours if one.name == plan.project] or [
            one for one in projects if one.key == plan.legacy_key and one.name == plan.project
        ]
        if named or ours:
            return min(named or ours, key=lambda project: project.id)
        made = self._gateway.create_project(plan.project, plan.project_key, labels)
        self._is_new_project = True
        return made

    def before(self) -> dict[str, list[RemoteTask]]:
        """Tasks by key that were in the project before this push: none in one it has made."""
        return {} if self._is_new_project else self.existing()

    def existing(self) -> dict[str, list[RemoteTask]]:
        """Tasks of the project by key."""
        tasks: dict[str, list[RemoteTask]] = {}
        for task in self._gateway.tasks(self._project_id):
            tasks.setdefault(task.key, []).append(task)
        return tasks

    def task(self, planned: PlannedTask, known: Sequence[RemoteTask]) -> PushedTask:
        """One task with its frames and masks, whatever an earlier attempt left behind."""
        attempts: list[Sequence[RemoteTask]] = [known]

        def attempt() -> PushedTask:
            found = attempts.pop() if attempts else self.existing().get(planned.key, [])
            return self._make(planned, found)

        done: PushedTask = self._retrying()(attempt)
        return done

    def _make(self, planned: PlannedTask, found: Sequence[RemoteTask]) -> PushedTask:
        whole = [task for task in found if self._is_whole(task, planned)]
        kept = self.settle(planned.key, found, whole)
        is_new = kept is None
        if kept is None:
            if planned.key not in self._drawn:
                self.draw([planned])
            kept = self._gateway.create_task(
                NewTask(
                    self._project_id,
                    planned.name,
                    self._plan.task_link(planned),
                    frame_paths(planned.frames, self._catalogue),
                    self._plan.frames_per_job,
                    self._plan.options,
                )
            )
        seen = self._asker.submit(self._gateway.frame_names, kept.id)
        if is_new and not self._is_shuffled():
            # In a new task the frames lie as planned: that is looked at while masks are written.
            self._propose(planned, kept, planned.frames, is_new=True)
        names = seen.result()
        names = planned.frames if names == planned.frames else names  # kept once
        if is_new and not self._is_the_same(names, planned):
            raise DataError(
                f"task {kept.id} {planned.name!r}: CVAT has other frames than were sent; "
                "delete it there and push again"
            )
        is_undrawn = self._is_shuffled() if is_new else not self._is_begun(kept)
        if is_undrawn:
            self._propose(planned, kept, names, is_new=is_new)
        self._assign(planned, kept)
        validation = self._plan.options.validation
        return PushedTask(
            key=planned.key,
            task_id=kept.id,
            name=planned.name,
            frames=names,
            masks=planned.masks,
            validation=None if validation is None else validation.mode,
        )

    def settle(
        self, key: str, found: Sequence[RemoteTask], whole: Sequence[RemoteTask]
    ) -> RemoteTask | None:
        """The one task to keep of those with our key; the others are deleted if nobody used them.

        Raises:
            DataError: people have worked in a task that would be deleted.
        """
        if len(found) == len(whole) == 1:
            return whole[0]
        used = [task for task in found if task.n_frames and self._is_used(task)]
        kept = min(
            [task for task in whole if task in used] or whole, key=lambda one: one.id, default=None
        )
        if any(task is not kept for task in used):
            ids = ", ".join(str(task.id) for task in found)
            raise DataError(
                f"tasks {ids} in CVAT have our key {key!r}, and people have worked in one that is "
                "not as planned, or in two. Keep one there, or set frames_per_task as it was; "
                "then push again"
            )
        for task in found:
            if task is not kept:
                self._gateway.delete_task(task.id)
        return kept

    def sweep(self) -> dict[str, RemoteTask]:
        """Leave one task a key, and none of another cut of this round.

        Comes back with those that were there twice, by key: what an earlier, killed push had sent
        may appear late.
        """
        planned = {task.key: task for task in self._plan.tasks}
        stems = {key.rpartition(":")[0] for key in planned}
        settled: dict[str, RemoteTask] = {}
        for key, found in self.existing().items():
            stem, _, part = key.rpartition(":")
            if key in planned:
                if len(found) > 1:
                    whole = [task for task in found if self._is_whole(task, planned[key])]
                    kept = self.settle(key, found, whole)
                    if kept is not None:
                        settled[key] = kept
            elif stem in stems and part.isdigit():
                self.settle(key, found, ())
        return settled

    def _is_used(self, task: RemoteTask) -> bool:
        """Whether a person has begun a task: a job, a shape, a tag or a track says so."""
        if self._is_begun(task):
            return True
        drawn = self._gateway.task_annotations(task.id)
        by_hand = any(shape.source != "auto" for shape in drawn.shapes)
        return by_hand or bool(drawn.tags) or drawn.n_tracks > 0

    def _is_begun(self, task: RemoteTask) -> bool:
        return any(job.state != "new" for job in self._gateway.all_jobs(task.id))

    def _is_whole(self, task: RemoteTask, planned: PlannedTask) -> bool:
        if task.n_frames < len(planned.frames):
            return False
        return self._is_the_same(self._gateway.frame_names(task.id), planned)

    def _is_the_same(self, names: Sequence[str], planned: PlannedTask) -> bool:
        if self._is_shuffled():
            return set(names) == set(planned.frames)  # some of them twice
        return tuple(names) == planned.frames

    def _is_shuffled(self) -> bool:
        """Whether CVAT puts the frames in an order of its own, among frames to check people by."""
        validation = self._plan.options.validation
        return validation is not None and validation.mode == "honeypots"

    def _propose(
        self, planned: PlannedTask, task: RemoteTask, names: Sequence[str], *, is_new: bool
    ) -> None:
        """Write the proposals where nothing is drawn yet.

        One write sets all masks of a task or job: where anything is drawn, it happened, and people
        may have begun. In a task made a moment ago nothing is.
        """
        ahead = self._drawn.pop(planned.key, None)
        if not planned.masks:
            return
        drawn = self._draw(planned.frames) if ahead is None else ahead.result()
        options, gateway = self._plan.options, self._gateway
        is_pool = self._is_shuffled()
        if not is_pool and (is_new or _is_empty(gateway.task_annotations(task.id))):
            shapes = self._shapes(drawn, range(len(names)), names)
            gateway.replace_annotations(task.id, shapes)
        if not is_pool and not options.replicas:
            return
        for job in gateway.all_jobs(task.id):
            # Who makes the ground truth must not see what the model thinks.
            if job.kind == "consensus_replica" or (is_pool and job.kind == "annotation"):
                shapes = self._shapes(drawn, range(job.start_frame, job.stop_frame + 1), names)
                if shapes.shapes and _is_empty(gateway.job_annotations(job.id)):
                    gateway.replace_in_job(job.id, shapes)

    def _shapes(
        self, drawn: Sequence[Drawn], frames: range, names: Sequence[str]
    ) -> RemoteAnnotations:
        places: dict[str, list[int]] = {}
        for frame in frames:
            places.setdefault(names[frame], []).append(frame)
        return RemoteAnnotations(
            tuple(
                shape_of(
                    one.proposal.annotation, one.points, frame, self.labels[one.proposal.label]
                )
                for one in drawn
                for frame in places.get(one.proposal.file_name, ())
            )
        )

    def _assign(self, planned: PlannedTask, task: RemoteTask) -> None:
        """Give each job that nobody has to the next in turn; a lead merges the replicated ones."""
        if not self._assignees:
            return
        jobs = self._gateway.all_jobs(task.id)
        parents = [job.id for job in jobs if job.kind == "annotation"]
        seen: Counter[int] = Counter()
        for job in jobs:
            is_merged = job.kind == "annotation" and self._plan.options.replicas > 0
            if job.kind == "ground_truth" or is_merged:
                continue
            parent = job.id if job.parent_id is None else job.parent_id
            turn = planned.first_job + parents.index(parent) + seen[parent]
            seen[parent] += 1
            if not job.is_assigned:
                assign(self._gateway, job.id, self._assignees[turn % len(self._assignees)])


def _is_empty(drawn: RemoteAnnotations) -> bool:
    return not drawn.shapes and not drawn.tags and drawn.n_tracks == 0
