"""Workers killed at random moments over whole chains, and trainings killed and resumed.

The worker is the real process; what starts it again is what a follower of `make train` runs. Knows
nothing of phantoms.
"""

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from safetensors.torch import load_file

from casebook import masks
from casebook.catalogue import Catalogue
from casebook.documents import read_document, read_lines, sha256_of_file
from casebook.embedded import ensure_worker
from casebook.home import AuditEntry, Home
from casebook.registry import Registry
from casebook.rounds import RoundFolder
from tests.unit.trainer.workspace import make_conf, make_workspace, truth_set
from trainer.chain import queue_steps, steps_left, steps_of
from trainer.evaluate import read_evaluation
from trainer.leftovers import temporaries
from trainer.requests import failure, pending
from trainer.results import Candidate, Decision, Promotion

LIMIT_S = 600.0
STARTING = 0.15
"""Share of kills while the worker starts; the others while it works."""
KILLS_A_CHAIN = 8
REACH = 0.5
"""How long a worker lives at most, as a share of what the whole chain takes in peace."""
SETTINGS = ("train.lr=1e-3", "evaluate.details=false")
Figures = dict[str, float | None]


def worker_pids(home: Home) -> list[int]:
    """Worker processes of a workspace."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if {"trainer.worker", str(home.root)} <= set(process.info["cmdline"] or ())
    ]


def kill_workers(home: Home) -> int:
    """SIGKILL every worker of a workspace; how many there were."""
    killed = 0
    for pid in worker_pids(home):
        try:
            process = psutil.Process(pid)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=30)
        except psutil.NoSuchProcess:
            continue
        killed += 1
    return killed


def _until(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit_s:.0f} s for: {what}")
        time.sleep(0.01)


def _finish(folder: RoundFolder) -> None:
    """Wait for the end of what is asked, starting workers as a follower does."""

    def over() -> bool:
        if pending(folder) is None:
            return True
        ensure_worker(folder.home)
        return False

    _until(over, f"the end of {folder.path}")


def end_state(home: Home) -> dict[str, str]:
    """What a finished round 1 leaves, but for times, the ids they make, and the progress."""
    folder = RoundFolder(home, 1)
    candidate = read_document(folder.file("candidate.json"), Candidate)
    evaluation = read_evaluation(folder)
    weights = Registry(home).folder(candidate.model_id) / "adapter.safetensors"
    audit = read_lines(home.root / "audit.jsonl", AuditEntry)
    promotion = read_document(folder.file("promotion.json"), Promotion)
    found: dict[str, object] = {
        "weights": sha256_of_file(weights),
        "val": [case.iou_box for case in evaluation.candidate.val.cases],
        "test": [case.iou_box for case in evaluation.candidate.test.cases],
        "decision": read_document(folder.file("decision.json"), Decision),
        "promoted": (promotion.promoted, Registry(home).promoted()),
        # A kill at the pointer may tell a promotion twice; none may be missing.
        "audit": sorted({(line.action, line.subject, line.reason) for line in audit}),
        "left": (steps_left(folder), pending(folder), failure(folder)),
        "models": sorted(card.model_id for card in Registry(home).cards()),
        # What a kill leaves half-written has no name to be read by; it is counted, and swept later.
        "files": sorted(
            path.name
            for path in folder.path.iterdir()
            if path.is_file() and path.name not in temporaries(folder)
        ),
    }
    own = {candidate.model_id: "CANDIDATE", folder.manifest_sha256(): "MANIFEST"}
    texts = {name: str(value) for name, value in found.items()}
    for name in texts:
        for text, stands_for in own.items():
            texts[name] = texts[name].replace(text, stands_for)
    return texts


def _chain(
    root: Path, conf: Path, rng: random.Random, kills: int, work_s: float
) -> tuple[Home, int, int]:
    """One chain with at most so many kills; its workspace, the kills, and how often it gave up."""
    home = _prepared(root)
    folder = RoundFolder(home, 1)
    done = given_up = 0
    try:
        while steps_left(folder):
            seen = _told(folder)
            if pending(folder) is not None:
                ensure_worker(home)
            else:
                given_up += _has_given_up(folder)
                queue_steps(folder, steps_left(folder), conf, SETTINGS)
            if done == kills:
                _finish(folder)
                continue
            if rng.random() >= STARTING:
                _until(partial(_goes_on, folder, seen), "a worker's first step")
            time.sleep(rng.uniform(0, REACH * work_s))
            if pending(folder) is not None:
                done += kill_workers(home)
        _finish(folder)
    finally:
        kill_workers(home)
    return home, done, given_up


def _prepared(root: Path) -> Home:
    """A workspace whose masks are filled boxes: what a random base learns at once to be promoted.

    So that kills also fall into a promotion.
    """
    home = make_workspace(root)
    catalogue = Catalogue(home)
    for case in list(catalogue.cases(annotated=True)):
        given = catalogue.expert_annotations(case.case_id)
        if given is None:
            raise RuntimeError(f"case {case.case_id} lost its annotations")
        bitmap = masks.decode(given.annotations[0].mask)
        x1, y1, x2, y2 = masks.box_of(bitmap)
        filled = np.zeros_like(bitmap)
        filled[y1 : y2 + 1, x1 : x2 + 1] = True
        frames = {case.frame: catalogue.frame_path(case.ref).read_bytes()}
        catalogue.add(case, frames, annotations=truth_set(case, filled))
    return home


def _told(folder: RoundFolder) -> int:
    return len(folder.events()) if folder.has("events.jsonl") else 0


def _goes_on(folder: RoundFolder, seen: int) -> bool:
    """Whether a worker has told anything since, or there is nothing left to do."""
    return pending(folder) is None or _told(folder) > seen


def _has_given_up(folder: RoundFolder) -> bool:
    """Whether a step was left after losing its worker too often, as its message says.

    Raises:
        RuntimeError: it failed for another reason.
    """
    found = failure(folder)
    if found is not None and "the worker died" not in found.message:
        raise RuntimeError(f"{folder.path}: {found.step} failed: {found.message}")
    return found is not None


def killed_chains(kills: int) -> Figures:
    """Chains of a round 1 under SIGKILL, each compared with one nobody disturbed."""
    rng = random.Random(7)  # noqa: S311 - moments, not secrets
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    done = chains = wrong = given_up = half_written = 0
    with tempfile.TemporaryDirectory(prefix="bench-kills-") as scratch:
        conf = make_conf(Path(scratch), steps=30, every=5)
        calm, *_ = _chain(Path(scratch) / "calm", conf, rng, 0, 0.0)
        expected = end_state(calm)
        if "CANDIDATE" not in expected["promoted"]:
            raise RuntimeError(
                "the calm chain promoted nothing; its kills would miss the promotion"
            )
        events = RoundFolder(calm, 1).events()
        work_s = (events[-1].at - events[0].at).total_seconds()
        while done < kills:
            asked = min(KILLS_A_CHAIN, kills - done)
            home, count, often = _chain(Path(scratch) / f"chain-{chains}", conf, rng, asked, work_s)
            found = end_state(home)
            different = [name for name in expected if found[name] != expected[name]]
            wrong += bool(different)
            chains += 1
            done += count
            given_up += often
            half_written += len(temporaries(RoundFolder(home, 1)))
            print(f"  chain {chains}: {count} kills, {done} in all, different: "
                  f"{', '.join(different) or 'nothing'}", flush=True)  # fmt: skip
            for name in different:
                print(f"    {name}: {found[name]} instead of {expected[name]}", flush=True)
    return {
        "kills": float(done),
        "kill_chains": float(chains),
        "wrong_end_states": float(wrong),
        "kill_given_up": float(given_up),
        "kill_half_written": float(half_written),
        "kill_work_s": work_s,
    }


def resumed_training(
    prepare: Callable[[Home], None], conf: Path, *, steps: int, every: int
) -> Figures:
    """A training of a real worker killed twice, against the same one in peace.

    Args:
        prepare: Puts the cases into a workspace.
        conf: Folder of round-NN.yaml.
        steps: Of the training.
        every: Steps from one checkpoint to the next.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    settings = (f"train.steps={steps}", f"train.checkpoint_every={every}", "train.log_every=1")
    adapters = []
    with tempfile.TemporaryDirectory(prefix="bench-resume-") as scratch:
        for name, kill_at in (("calm", ()), ("killed", (0.3, 0.7))):
            home = Home(Path(scratch) / name)
            prepare(home)
            folder = RoundFolder(home, 1)
            try:
                queue_steps(folder, steps_of(1)[:2], conf, settings)
                for share in kill_at:
                    _until(partial(_has_reached, folder, share * steps), "a step")
                    if kill_workers(home) != 1:
                        raise RuntimeError(f"{home.root}: no worker to kill; was it over already?")
                    ensure_worker(home)
                _finish(folder)
            finally:
                kill_workers(home)
            candidate = read_document(folder.file("candidate.json"), Candidate)
            weights = Registry(home).folder(candidate.model_id) / "adapter.safetensors"
            adapters.append(load_file(weights))
            told = [event.message for event in folder.events() if event.step == "train"]
            if told.count("started") != 1 + len(kill_at):
                raise RuntimeError(
                    f"{name}: the training was started {told.count('started')} times"
                )
    calm, killed = adapters
    if calm.keys() != killed.keys():
        raise RuntimeError("the resumed training keeps other weights than the calm one")
    return {
        "resume_max_abs_diff": max(
            float((calm[name].double() - killed[name].double()).abs().max()) for name in calm
        ),
        "resume_kills": 2.0,
        "resume_steps": float(steps),
    }


def _has_reached(folder: RoundFolder, step: float) -> bool:
    """Whether the training has told of this step."""
    if not folder.has("events.jsonl"):
        return False
    return any(event.values.get("step", 0.0) >= step for event in folder.events())
