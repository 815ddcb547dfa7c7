"""A simulated expert who works through CVAT's REST API as the web page does.

Opens jobs, looks at each frame, keeps a good proposal, corrects a bad one with the interactor
function and, where that is not enough, by hand, rejects unusable frames and completes the job.
Knows the truth of the frames it is given, and nothing of the catalogue, the model or the round.
Working times are simulated (`Effort`), never measured.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import httpx
import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from casebook import masks, metrics
from casebook.cases import FrameRef
from casebook.errors import AccessError, RemoteError, UnreachableError

Record = dict[str, Any]
"""One JSON document of CVAT's API."""

Truth = Callable[[FrameRef], dict[str, Bool[np.ndarray, "h w"]]]
"""The true mask of every label on a frame."""


@dataclass(frozen=True)
class Effort:
    """Simulated working times, in seconds; a person's are measured by CVAT."""

    look: float = 15.0
    """Open the frame and judge the proposal."""
    box: float = 8.0
    click: float = 4.0
    by_hand: float = 300.0
    """Draw a mask from nothing: the plan's manual baseline of 5 minutes a case."""
    touch_up: float = 180.0
    """Correct a mask by brush, times the share of it that is wrong."""


@dataclass(frozen=True)
class Habits:
    """How the expert decides."""

    accept_iou: float = 0.80
    """A mask that agrees this well with what the expert sees is left as it is."""
    clicks: int = 3
    """Correction clicks before giving up on the interactor."""
    reject_share: float = 0.04
    """Share of frames found unusable."""
    function: str = "angioloop-interactor"
    seed: int = 1
    effort: Effort = field(default_factory=Effort)


@dataclass
class Tally:
    """What the expert did."""

    accepted: int = 0
    refined: int = 0
    drawn: int = 0
    rejected: int = 0
    interactor_calls: int = 0
    seconds: float = 0.0


class Desk:
    """A logged-in session with CVAT's REST API."""

    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=150.0,
        )

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Close the connection."""
        self._http.close()

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; JSON back, or nothing when the answer is empty.

        Raises:
            AccessError: the token was refused.
            UnreachableError: no answer.
            RemoteError: any other refusal.
        """
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as problem:
            raise UnreachableError(f"{method} {path}: no answer from CVAT ({problem})") from None
        if answer.status_code in {401, 403}:
            raise AccessError(f"{method} {path}: CVAT refused the token; give another")
        if answer.status_code >= 400:
            raise RemoteError(f"{method} {path}: CVAT answered {answer.status_code}")
        return answer.json() if answer.content else None

    def pages(self, path: str, **query: str | int) -> Iterator[Record]:
        """All results of a listing, page after page."""
        page = 1
        while True:
            listing = self.call("GET", path, params={**query, "page": page, "page_size": 100})
            yield from listing["results"]
            if not listing.get("next"):
                return
            page += 1


class Expert:
    """Works through open jobs."""

    def __init__(self, desk: Desk, truth: Truth, habits: Habits) -> None:
        self._desk = desk
        self._truth = truth
        self._habits = habits
        self.tally = Tally()

    def work(self, project: str, tell: Callable[[str], None]) -> Tally:
        """Complete every open job of a project.

        Raises:
            RemoteError: there is no such project, or CVAT refused.
        """
        found = [entry for entry in self._desk.pages("/api/projects") if entry["name"] == project]
        if not found:
            raise RemoteError(f"project {project!r} is not in CVAT; push a round first")
        jobs = [
            job
            for entry in found
            for task in self._desk.pages("/api/tasks", project_id=entry["id"])
            for job in self._desk.pages("/api/jobs", task_id=task["id"])
            if job["state"] != "completed" and job.get("type", "annotation") == "annotation"
        ]
        jobs.sort(key=lambda job: int(job["id"]))
        for position, job in enumerate(jobs, start=1):
            self._job(job)
            tell(f"job {job['id']}: {position} of {len(jobs)} completed")
        return self.tally

    def _job(self, job: Record) -> None:
        labels = {
            label["name"]: label for label in self._desk.pages("/api/labels", job_id=job["id"])
        }
        meta = self._desk.call("GET", f"/api/jobs/{job['id']}/data/meta")
        content = self._desk.call("GET", f"/api/jobs/{job['id']}/annotations")
        self._desk.call("PATCH", f"/api/jobs/{job['id']}", json={"state": "in progress"})
        spent = 0.0
        for offset, entry in enumerate(meta["frames"]):
            frame = int(job["start_frame"]) + offset
            ref = FrameRef.from_file_name(str(entry["name"]).rsplit("/", 1)[-1])
            if ref is None:
                continue
            shapes = [
                shape
                for shape in content["shapes"]
                if shape["frame"] == frame and shape["type"] == "mask"
            ]
            hw = (int(entry["height"]), int(entry["width"]))
            spent += self._frame(job, frame, ref, shapes, labels, hw)
        self._report_time(job, spent)
        done = {"stage": "acceptance", "state": "completed"}
        self._desk.call("PATCH", f"/api/jobs/{job['id']}", json=done)
        self.tally.seconds += spent

    def _frame(
        self,
        job: Record,
        frame: int,
        ref: FrameRef,
        shapes: Sequence[Record],
        labels: dict[str, Record],
        hw: tuple[int, int],
    ) -> float:
        effort = self._habits.effort
        if self._draw(ref.file_name) < self._habits.reject_share and "rejected" in labels:
            self._reject(job, frame, shapes, labels["rejected"])
            self.tally.rejected += 1
            return effort.look
        truth = self._truth(ref)
        names = {int(label["id"]): name for name, label in labels.items()}
        seconds = effort.look
        unknown = [shape for shape in shapes if names.get(shape["label_id"]) not in truth]
        if unknown:
            self._change(job, "delete", unknown)
        for name, bitmap in truth.items():
            if name not in labels or not bitmap.any():
                continue
            mine = [shape for shape in shapes if names.get(shape["label_id"]) == name]
            seconds += self._object(job, frame, bitmap, mine, labels[name], hw)
        return seconds

    def _object(
        self,
        job: Record,
        frame: int,
        bitmap: Bool[np.ndarray, "h w"],
        shapes: Sequence[Record],
        label: Record,
        hw: tuple[int, int],
    ) -> float:
        good = self._habits.accept_iou
        effort = self._habits.effort
        if shapes:
            best = max(
                shapes, key=lambda one: metrics.iou(masks.from_cvat(one["points"], hw), bitmap)
            )
            spare = [shape for shape in shapes if shape is not best]
            if spare:
                self._change(job, "delete", spare)
            if metrics.iou(masks.from_cvat(best["points"], hw), bitmap) >= good:
                self.tally.accepted += 1
                return 0.0
        answer, seconds = self._prompt(job, frame, bitmap)
        agreement = metrics.iou(answer, bitmap) if answer is not None else 0.0
        if answer is None or agreement < good:
            by_brush = effort.touch_up * (1 - agreement)
            seconds += min(by_brush, effort.by_hand) if answer is not None else effort.by_hand
            answer = bitmap
        change = {
            "type": "mask",
            "frame": frame,
            "label_id": label["id"],
            "points": masks.to_cvat(answer),
            "source": "semi-auto",
            "occluded": False,
            "z_order": 0,
            "rotation": 0.0,
            "group": 0,
            "attributes": [],
        }
        if shapes:
            self._change(job, "update", [{**best, **change}])
            self.tally.refined += 1
        else:
            self._change(job, "create", [change])
            self.tally.drawn += 1
        return seconds

    def _prompt(
        self, job: Record, frame: int, bitmap: Bool[np.ndarray, "h w"]
    ) -> tuple[Bool[np.ndarray, "h w"] | None, float]:
        """The interactor's best mask after a box and correction clicks, and the seconds it took."""
        x1, y1, x2, y2 = masks.box_of(bitmap)
        inside: list[list[int]] = []
        outside: list[list[int]] = []
        answer: Bool[np.ndarray, "h w"] | None = None
        seconds = self._habits.effort.box
        for click in range(self._habits.clicks + 1):
            request = {
                "task": job["task_id"],
                "job": job["id"],
                "frame": frame,
                "obj_bbox": [[x1, y1], [x2, y2]],
                "pos_points": inside,
                "neg_points": outside,
            }
            reply = self._desk.call(
                "POST", f"/api/lambda/functions/{self._habits.function}", json=request
            )
            self.tally.interactor_calls += 1
            found = [shape for shape in reply["shapes"] if shape["type"] == "mask"]
            if found:
                answer = masks.from_cvat(found[0]["points"], bitmap.shape)
            current = np.zeros_like(bitmap) if answer is None else answer
            if metrics.iou(current, bitmap) >= self._habits.accept_iou:
                break
            if click < self._habits.clicks:
                x, y, positive = worst_point(current, bitmap)
                (inside if positive else outside).append([x, y])
                seconds += self._habits.effort.click
        return answer, seconds

    def _reject(self, job: Record, frame: int, shapes: Sequence[Record], label: Record) -> None:
        if shapes:
            self._change(job, "delete", shapes)
        reason = [
            {"spec_id": attribute["id"], "value": "unusable frame"}
            for attribute in label["attributes"]
            if attribute["name"] == "reason"
        ]
        tag = {
            "frame": frame,
            "label_id": label["id"],
            "group": 0,
            "source": "manual",
            "attributes": reason,
        }
        self._desk.call(
            "PATCH",
            f"/api/jobs/{job['id']}/annotations",
            params={"action": "create"},
            json={"version": 0, "shapes": [], "tracks": [], "tags": [tag]},
        )

    def _change(self, job: Record, action: str, shapes: Sequence[Record]) -> None:
        self._desk.call(
            "PATCH",
            f"/api/jobs/{job['id']}/annotations",
            params={"action": action},
            json={"version": 0, "shapes": list(shapes), "tracks": [], "tags": []},
        )

    def _report_time(self, job: Record, seconds: float) -> None:
        """Send the working time as CVAT's page does: one client event."""
        event = {
            "scope": "send:working_time",
            "timestamp": datetime.now(UTC).isoformat(),
            "duration": round(seconds * 1000),
            "job_id": job["id"],
            "task_id": job["task_id"],
            "payload": '{"simulated": true}',
        }
        body = {"events": [event], "timestamp": event["timestamp"]}
        self._desk.call("POST", "/api/events", json=body)

    def _draw(self, name: str) -> float:
        """A number in [0, 1) that depends on the frame's name and the seed alone."""
        digest = hashlib.sha256(f"{self._habits.seed}:{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


def worst_point(
    answer: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]
) -> tuple[int, int, bool]:
    """The middle of the largest error: x, y in px, and whether it is a missed (positive) one."""
    best = (0.0, 0, 0, True)
    for wrong, positive in ((truth & ~answer, True), (answer & ~truth, False)):
        if not wrong.any():
            continue
        labelled, _ = ndimage.label(wrong)
        sizes = np.bincount(labelled.reshape(-1))
        sizes[0] = 0
        region = labelled == int(sizes.argmax())
        depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        if sizes.max() > best[0]:
            best = (float(sizes.max()), int(x), int(y), positive)
    return best[1], best[2], best[3]
