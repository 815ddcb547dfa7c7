"""The exchange with CVAT against cvat-sdk used plainly, on the stand-in with 20 ms latency.

`push_ratio_vs_sdk_default`, `push_ratio_vs_sdk_200ms`: seconds of a loop over the SDK (one task
after the other, at its own polling of 5 s, or at 0.2 s) over ours, for the same frames and masks.
The same with `_work_1s` where each piece of the server's background work takes a second, as the
stand-in's own takes milliseconds: a CVAT reads, sorts and describes a task's files.
`pull_client_cpu_ratio`: processor seconds of the SDK's parsed annotations and its decoder over
ours, for the same masks; ours also checks each and writes the job's file.
`rss_10k_over_400`: peak memory of a process that pushes 10 000 frames over one that pushes 400.
`kills`, `duplicates`, `lost`, `torn`: pushes and pulls killed at random instants and run again,
and what is there too often, not there, or unreadable at the end.
`faults_wrong`: wrong end states of a push and pull through a server that fails 5 % of requests.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from cvat_sdk.masks import decode_mask
from jaxtyping import Bool
from scipy.ndimage import gaussian_filter

from bench.cvat_rounds import make_round, planned, proposed, push_ours, push_plainly, server
from bench.harness import run_parts
from casebook import masks
from casebook.annotations import read_annotations
from casebook.documents import read_document
from casebook.rounds import RoundFolder
from cvat_sync.gateway import CvatGateway, retrying
from cvat_sync.plan import PushPlan
from cvat_sync.pull import pull
from cvat_sync.pulled import PulledJob, job_path, pulled_job
from cvat_sync.pushed import JOURNAL, Pushed, need_pushed
from cvat_sync.remote import RemoteAnnotations, RemoteShape
from cvat_sync.settings import TOKEN_VARIABLE, URL_VARIABLE, Access

AIMS = {
    "push_ratio_vs_sdk_default": ">= 5",
    "push_ratio_vs_sdk_200ms": ">= 2",
    "pull_client_cpu_ratio": ">= 3",
    "rss_10k_over_400": "<= 1.1",
    "kills": ">= 200",
    "duplicates": "<= 0",
    "lost": "<= 0",
    "torn": "<= 0",
    "faults_wrong": "<= 0",
}
Bitmap = Bool[np.ndarray, "h w"]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def push_figures(quick: bool) -> dict[str, float | None]:
    """Our push against the loop, at both pollings; once more where the server's work takes 1 s.

    They take turns, and the median of three counts: what else the machine does passes over all.
    """
    tasks, per_task = (2, 6) if quick else (10, 40)
    periods = {"200ms": 0.2, "default": Config().status_check_period}
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="bench-push-") as root:
        folder = make_round(Path(root), tasks * per_task, 128 if quick else 512)
        for suffix, options, turns in (("", (), 3), ("_work_1s", ("--work-ms", "1000"), 1)):
            spent: dict[str, list[float]] = {name: [] for name in ("ours", *periods)}
            for _ in range(1 if quick else turns):
                for name, seconds in spent.items():
                    for left in ("pushed.json", JOURNAL):
                        folder.file(left).unlink(missing_ok=True)
                    with server(*options) as access:
                        work: Callable[[], object] = partial(push_ours, folder, access, per_task)
                        if name in periods:
                            work = partial(push_plainly, folder, access, per_task, periods[name])
                        seconds.append(_timed(work))
            ours_s = median(spent["ours"])
            for name in periods:
                figures[f"push_ratio_vs_sdk_{name}{suffix}"] = median(spent[name]) / ours_s
            figures[f"push_s{suffix}"] = ours_s
    return figures


def dense(count: int, side: int = 512) -> list[Bitmap]:
    """Masks of many runs: blobs all over the image."""
    generator = np.random.default_rng(3)
    return [gaussian_filter(generator.standard_normal((side, side)), 6) > 0.0 for _ in range(count)]


def pull_figures(quick: bool) -> dict[str, float | None]:
    """Processor time of reading dense masks, as the pull does it and as the SDK does it."""
    n_masks = 40 if quick else 1000
    kinds = [[float(value) for value in masks.to_cvat(bitmap)] for bitmap in dense(20)]
    with tempfile.TemporaryDirectory(prefix="bench-pull-") as root, server() as access:
        folder = make_round(Path(root), 10, 512)
        (task,) = push_ours(folder, access, 10).tasks
        with CvatGateway(access) as gateway:
            job = gateway.jobs(task.task_id)[0]
            labels = gateway.labels(gateway.projects()[0].id)
            lad = next(label.id for label in labels if label.name == "LAD")
            drawn = [
                RemoteShape(None, 0, lad, "mask", kinds[i % len(kinds)]) for i in range(n_masks)
            ]
            gateway.replace_in_job(job.id, RemoteAnnotations(tuple(drawn)))

            def ours() -> list[Bitmap]:
                read = pulled_job(job, gateway.job_annotations(job.id), (), labels)
                path = job_path(folder, job.id)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(read.model_dump_json().encode())
                return [masks.from_cvat(shape.points, (512, 512)) for shape in read.shapes]

            start = time.process_time()
            found = ours()
            ours_s = time.process_time() - start
        with Client(access.url, check_server_version=False) as client:
            client.login(AccessTokenCredentials(str(access.token)))
            start = time.process_time()
            theirs = [
                decode_mask(shape.points, image_width=512, image_height=512)
                for shape in client.jobs.retrieve(job.id).get_annotations().shapes
            ]
            sdk_s = time.process_time() - start
    if len(found) != n_masks or not all(map(np.array_equal, found, theirs)):
        raise AssertionError("our masks differ from the SDK's")
    return {"pull_client_cpu_ratio": sdk_s / ours_s, "pull_cpu_ms_per_mask": 1e3 * ours_s / n_masks}


PEAK = """
import sys
from pathlib import Path
from cvat_sync.cli import main
main(["push", "--round", "2", "--home", sys.argv[1], "--conf", sys.argv[1]], standalone_mode=False)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""
"""The command in a process of its own, which then tells its largest resident memory in kB."""


def memory_figures(quick: bool) -> dict[str, float | None]:
    """Peak memory of a push of many frames over one of few."""
    few, many = (50, 200) if quick else (400, 10_000)
    peaks: list[int] = []
    for count in (few, many):
        with tempfile.TemporaryDirectory(prefix="bench-memory-") as root, server() as access:
            folder = make_round(Path(root), count, 96)
            told = subprocess.run(
                [sys.executable, "-c", PEAK, root],
                env={**os.environ, URL_VARIABLE: access.url, TOKEN_VARIABLE: str(access.token)},
                check=True,
                capture_output=True,
                text=True,
            )
            if sum(len(task.frames) for task in need_pushed(folder).tasks) != count:
                raise AssertionError(f"not all of {count} frames were pushed")
            peaks.append(int(told.stdout.split()[-1]))
    return {"rss_10k_over_400": peaks[1] / peaks[0], "rss_mb": peaks[1] / 1024}


def _child(work: Callable[[], object]) -> int:
    """A process of its own that does some work; its id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        work()
    except BaseException:  # noqa: BLE001 - the child must never run the parent's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _ends(process: int, within_s: float) -> bool:
    """Whether a process ended by itself; it is killed when it has not, in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status):
                raise RuntimeError("a push or pull failed by itself")
            return True
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


class Tally:
    """What was killed, and what came out of it."""

    def __init__(self) -> None:
        self.kills = self.duplicates = self.lost = self.torn = 0

    def until_done(self, work: Callable[[], object], generator: np.random.Generator) -> None:
        """Kill some work at random instants until it ends before it is killed."""
        within_s = 0.3
        while not _ends(_child(work), generator.uniform(0, within_s)):
            self.kills += 1
            within_s *= 1.15  # what resumes gets further, so the end is reached

    def check(self, folder: RoundFolder, plan: PushPlan, gateway: CvatGateway) -> None:
        """Compare what is in CVAT, and here, with what was planned."""
        pushed = read_document(folder.file("pushed.json"), Pushed)
        tasks = gateway.tasks(pushed.project_id)
        wanted = {task.key: task for task in plan.tasks}
        self.duplicates += len(tasks) - len({task.key for task in tasks})
        self.lost += len(wanted.keys() - {task.key for task in tasks})
        for task in tasks:
            self._differ(task.n_frames, len(wanted[task.key].frames))
            self._differ(len(gateway.task_annotations(task.id).shapes), wanted[task.key].masks)
        projects = [one for one in gateway.projects() if one.key == plan.project_key]
        self.duplicates += len(projects) - 1

    def check_sealed(self, folder: RoundFolder, plan: PushPlan) -> None:
        """Compare the sealed round with what was planned, and read every file of it."""
        sealed = read_annotations(folder.file("annotations.coco.json"))
        self._differ(len(sealed.annotations), plan.n_masks)
        self.lost += sum(image.status != "ok" for image in sealed.images)
        for path in folder.path.rglob("*.json"):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                self.torn += 1
        for path in folder.file("pull").glob("job-*.json"):
            read_document(path, PulledJob)

    def _differ(self, found: int, wanted: int) -> None:
        self.duplicates += max(0, found - wanted)
        self.lost += max(0, wanted - found)


def complete(gateway: CvatGateway, pushed: Pushed) -> None:
    """Declare every job done, as annotators would."""
    for task in pushed.tasks:
        for job in gateway.jobs(task.task_id):
            gateway.send("complete", "PATCH", f"/api/jobs/{job.id}", {"state": "completed"})


def _pull(folder: RoundFolder, access: Access) -> None:
    with CvatGateway(access) as gateway:
        pull(folder, read_document(folder.file("pushed.json"), Pushed), gateway, parallel=4)


def there_and_back(access: Access, tally: Tally, generator: np.random.Generator | None) -> None:
    """One small round pushed and pulled; killed on its way where there is a generator."""
    with tempfile.TemporaryDirectory(prefix="bench-kills-") as root:
        folder = make_round(Path(root), 12, 64)
        plan = planned(folder, proposed(folder), 2)

        def to() -> object:
            return push_ours(folder, access, 2)

        def back() -> None:
            if not folder.has("annotations.coco.json"):
                _pull(folder, access)

        if generator is None:
            to()
        else:
            tally.until_done(to, generator)
        with retried(access) as gateway:
            tally.check(folder, plan, gateway)
            complete(gateway, read_document(folder.file("pushed.json"), Pushed))
        if generator is None:
            back()
        else:
            tally.until_done(back, generator)
        tally.check_sealed(folder, plan)


@contextmanager
def retried(access: Access) -> Iterator[CvatGateway]:
    """A gateway for the bench's own looks, which no fault may spoil."""
    with CvatGateway(access) as gateway:
        once = gateway.send
        gateway.send = lambda *arguments: retrying()(once, *arguments)  # type: ignore[method-assign]
        yield gateway


def kill_figures(quick: bool) -> dict[str, float | None]:
    """Kills at random instants of pushes and pulls."""
    wanted, tally, generator = 6 if quick else 200, Tally(), np.random.default_rng(11)
    with server() as access:
        while tally.kills < wanted:
            there_and_back(access, tally, generator)
    figures: dict[str, float | None] = {
        name: float(getattr(tally, name)) for name in ("kills", "duplicates", "lost", "torn")
    }
    return figures


def fault_figures(quick: bool) -> dict[str, float | None]:
    """A push and pull through 5 % of failed requests, some of them after their effect."""
    tally = Tally()
    for seed in range(1 if quick else 5):
        with server("--fault-rate", "0.05", "--fault-seed", str(seed)) as access:
            there_and_back(access, tally, None)
    return {"faults_wrong": float(tally.duplicates + tally.lost + tally.torn)}


PARTS: dict[str, Callable[[bool], dict[str, float | None]]] = {
    "push": push_figures,
    "pull": pull_figures,
    "memory": memory_figures,
    "kills": kill_figures,
    "faults": fault_figures,
}


if __name__ == "__main__":
    run_parts("cvat", PARTS, AIMS)
