"""The interactor function in a process of its own, over HTTP and real JSON.

`overhead_p95_ms_512`, `_1024`: whole round trip less the model's own time (embed, predict), with
the image sent again at every click as CVAT does. `fuzz_*`: broken requests, those that were not
answered by JSON with a reason, and how the serving process grew after the first tenth of them.
`swap_*`: requests from 4 clients while models are promoted, and those that failed or whose mask is
not the one of the model they name. `kill_s`: from a kill -9 of the serving process to the same
answer from its successor.
"""

import base64
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import psutil
import torch

from bench.harness import run
from casebook.catalogue import png_bytes
from casebook.config import read_config
from casebook.home import Home
from casebook.registry import ModelCard, Registry
from segmenter import adapter
from segmenter.fit import LoraConfig
from segmenter.weights import base_sha256, load_base
from serverless.models import ServingConfig
from tests.fakes.broken_requests import broken

AIMS = {
    "overhead_p95_ms_512": "<= 30",
    "overhead_p95_ms_1024": "<= 80",
    "fuzz_bad_answers": "<= 0",
    "fuzz_rss_growth_mb": "<= 32",
    "swap_failures": "<= 0",
}
ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "conf" / "tiny-base"
START_S = 180.0


@dataclass(frozen=True)
class Running:
    """A function in a process of its own, kept running by a second one as Docker would."""

    url: str
    keeper: psutil.Process

    def worker(self) -> psutil.Process:
        """The process that serves now."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            children = self.keeper.children()
            if children:
                return children[0]
            time.sleep(0.05)
        raise SystemExit("the function does not come back")

    def rss_mb(self) -> float:
        """Memory the serving process holds."""
        return float(self.worker().memory_info().rss) / 2**20


@contextmanager
def function(home: Home) -> Iterator[Running]:
    """The interactor under the stand-in processor."""
    port_file = home.root / "port"
    command = [sys.executable, "-m", "demo.processor", "--function", "serverless/interactor"]
    command.append("--restart")
    with (home.root / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port-file", str(port_file)],
            cwd=ROOT,
            env={**os.environ, "ANGIOLOOP_HOME": str(home.root), "ANGIOLOOP_CONF": str(home.root)},
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + START_S
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit((home.root / "log").read_text()[-2000:])
                time.sleep(0.1)
            yield Running(
                f"http://127.0.0.1:{port_file.read_text().strip()}/", psutil.Process(process.pid)
            )
        finally:
            process.terminate()
            process.wait()


def angiogram(side: int) -> str:
    """A dark curve on a noisy ground, as CVAT sends an original."""
    generator = np.random.default_rng(side)
    rows, columns = np.mgrid[:side, :side]
    pixels = 170 + 4 * generator.standard_normal((side, side))
    pixels[np.abs(columns - side / 2 - side / 8 * np.sin(rows / 60)) < 6] -= 70
    return base64.b64encode(png_bytes(pixels.clip(0, 255).astype(np.uint8))).decode()


def request(side: int, image: str, click: int = 0) -> bytes:
    """A box with one more click each time."""
    middle = side / 2
    body = {
        "image": image,
        "pos_points": [[middle + click % 5, side / 4 + click % 50]],
        "neg_points": [],
        "obj_bbox": [[middle - side / 6, side / 5], [middle + side / 6, side / 2]],
    }
    return json.dumps(body).encode()


def overhead_p95_ms(url: str, side: int, count: int) -> float:
    """95th percentile of the round trip less the model's time, after the first click."""
    image, spent = angiogram(side), []
    with httpx.Client(timeout=60.0, headers={"Content-Type": "application/json"}) as client:
        for click in range(count + 1):
            body = request(side, image, click)
            start = time.perf_counter()
            reply = client.post(url, content=body)
            whole_ms = (time.perf_counter() - start) * 1000
            stages = dict(
                part.split(";dur=") for part in reply.headers["server-timing"].split(", ")
            )
            model_ms = float(stages.get("embed", 0)) + float(stages["predict"])
            spent.append(whole_ms - model_ms)
    return float(np.percentile(spent[1:], 95))


def fuzz(running: Running, count: int) -> tuple[int, float]:
    """Broken requests not answered by JSON with a reason or by a mask; MB grown after a tenth."""
    dice, bad, before_mb = random.Random(7), 0, 0.0  # noqa: S311 - reproducible, nothing secret
    with httpx.Client(timeout=60.0) as client:
        for number in range(count):
            if number == count // 10:
                before_mb = running.rss_mb()
            body, content_type = broken(dice)
            reply = client.post(running.url, content=body, headers={"Content-Type": content_type})
            is_json = reply.headers["content-type"] == "application/json"
            named = is_json and ("error" in reply.json() or reply.status_code == 200)
            bad += not (named and reply.status_code in {200, 400, 413, 422})
    return bad, running.rss_mb() - before_mb


def seconds_to_come_back(running: Running) -> float:
    """From a kill -9 of the serving process to its next answer, which must be the same.

    Raises:
        SystemExit: it does not come back, or answers otherwise.
    """
    body, headers = request(512, angiogram(512)), {"Content-Type": "application/json"}
    before = httpx.post(running.url, content=body, headers=headers, timeout=60.0)
    killed = running.worker()
    start = time.monotonic()
    killed.kill()
    while time.monotonic() - start < START_S:
        try:
            after = httpx.post(running.url, content=body, headers=headers, timeout=60.0)
        except httpx.TransportError:
            time.sleep(0.05)
            continue
        if after.content != before.content or after.status_code != 200:
            raise SystemExit(f"after the kill: {after.status_code} {after.text[:200]}")
        return time.monotonic() - start
    raise SystemExit("the function does not come back")


def configure(home: Home) -> Path:
    """The shipped configuration with a copy of the base, which somebody may be training again."""
    base = home.root / "base"
    shutil.copytree(BASE, base)
    settings = read_config(ROOT / "conf" / "serving.yaml", ServingConfig)
    labels = str(ROOT / "conf" / settings.labels)
    changed = settings.with_(base=str(base), labels=labels)
    (home.root / "serving.yaml").write_text(changed.model_dump_json())  # JSON is YAML
    return base


def add_models(home: Home, base: Path, count: int) -> list[str]:
    """Adapters that answer differently, in the registry."""
    registry, names = Registry(home), [f"swap-{n}" for n in range(count)]
    lora = LoraConfig(rank=2, alpha=16)
    for seed, model_id in enumerate(names):
        torch.manual_seed(seed)
        model = load_base(base)
        adapter.inject(model, lora, "a")
        for parameter in adapter.trainable(model).values():
            parameter.data += 0.05 * torch.randn_like(parameter)
        folder, digest = registry.folder(model_id), base_sha256(base)
        adapter.save_adapter(model, "a", lora, folder, base_sha256=digest)
        registry.seal(
            ModelCard(
                model_id=model_id,
                kind="teacher",
                architecture="tiny SAM 3 with a random adapter",
                created=datetime.now(UTC),
                n_params=0,
                licence="bench",
            )
        )
    return names


def swap_failures(url: str, home: Home, names: list[str], count: int) -> int:
    """Requests that failed, or whose answer is another than their model's first."""
    body, lock = request(512, angiogram(512)), threading.Lock()
    answers: dict[str, set[bytes]] = {}
    failed = 0

    def ask(share: int) -> None:
        nonlocal failed
        with httpx.Client(timeout=120.0, headers={"Content-Type": "application/json"}) as client:
            for _ in range(share):
                reply = client.post(url, content=body)
                with lock:
                    failed += reply.status_code != 200
                    named = reply.headers.get("x-model-id", "none")
                    answers.setdefault(named, set()).add(reply.content)

    threads = [threading.Thread(target=ask, args=(count // 4,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for model_id in names:
        Registry(home).promote(model_id, "bench")
        deadline = time.monotonic() + 60
        while model_id not in answers and time.monotonic() < deadline:
            if not any(thread.is_alive() for thread in threads):
                ask(1)
            time.sleep(0.05)
    for thread in threads:
        thread.join()
    mixed = sum(len(found) - 1 for found in answers.values())
    unseen = sum(model_id not in answers for model_id in names)
    return failed + mixed + unseen


def measure(quick: bool) -> dict[str, float | None]:
    """The figures; absent where the shipped base is."""
    clicks, broken_ones, swaps = (20, 200, 100) if quick else (200, 10_000, 1_000)
    if not (BASE / "model.safetensors").is_file():
        return dict.fromkeys([*AIMS, "fuzz_requests", "swap_requests", "kill_s"])
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        names = add_models(home, configure(home), 2 if quick else 5)
        with function(home) as running:
            small = overhead_p95_ms(running.url, 512, clicks)
            large = overhead_p95_ms(running.url, 1024, clicks)
            bad, grown_mb = fuzz(running, broken_ones)
            failures = swap_failures(running.url, home, names, swaps)
            return {
                "overhead_p95_ms_512": small,
                "overhead_p95_ms_1024": large,
                "fuzz_requests": float(broken_ones),
                "fuzz_bad_answers": float(bad),
                "fuzz_rss_growth_mb": grown_mb,
                "swap_requests": float(swaps),
                "swap_failures": float(failures),
                "kill_s": seconds_to_come_back(running),
            }


if __name__ == "__main__":
    run("serving", measure, AIMS)
