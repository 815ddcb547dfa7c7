"""The stand-in server put together: routes, login gate, faults, the words that say what it is."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response

from demo.standin import (
    accounts,
    annotations,
    background,
    events,
    frames,
    functions,
    issues,
    jobs,
    labels,
    projects,
    tasks,
    uploads,
    webhooks,
)
from demo.standin.faults import Faults
from demo.standin.functions import Function
from demo.standin.replies import RefusalError, reply
from demo.standin.store import Store

NAME = "angioloop stand-in for CVAT"
CVAT_VERSION = "2.73.0"
"""The CVAT version whose REST API is imitated."""


@dataclass(frozen=True)
class Settings:
    """How one stand-in server is set up."""

    data_dir: Path
    """Where the database and the media live; kept between runs."""
    users: tuple[tuple[str, str], ...] = (("standin", "standin"),)
    """User names and passwords; the first is the superuser."""
    token: str | None = None
    """A personal access token of the first user."""
    functions: tuple[Function, ...] = ()
    """Running functions calls are forwarded to."""
    function_timeout_s: float = 120.0
    """CVAT's default wait for a function."""
    latency_ms: float = 0.0
    """Delay added to each request."""
    fault_rate: float = 0.0
    """Fraction of requests answered with 429, 502, 503 or 504."""
    work_ms: float = 0.0
    """Time each piece of background work is taken to need."""
    hang_rate: float = 0.0
    """Fraction of requests never answered."""
    fault_seed: int = 0
    webhook_disorder: float = 0.0
    """Fraction of webhook deliveries that are sent twice, and that are sent too late."""


def create_app(settings: Settings, on_ready: Callable[[], None] | None = None) -> FastAPI:
    """The ASGI application over the settings' data directory; `on_ready` is called at start."""
    store = Store(settings.data_dir)
    for i, (username, password) in enumerate(settings.users):
        user_id = accounts.ensure_user(store, username, password, superuser=i == 0)
        if i == 0 and settings.token is not None:
            accounts.ensure_token(store, user_id, settings.token)
    queue = background.Background(store, settings.work_ms / 1000)
    secret = functions.new_secret(settings.data_dir)
    gateway = functions.Gateway(settings.functions, settings.function_timeout_s, secret)
    sender = webhooks.Webhooks(store, settings.webhook_disorder, settings.fault_seed)
    # A delivery names the server as its own settings do, whatever address a client used.
    store.job_saved = lambda job_id, before: sender.job_updated(
        jobs.job_document(store, "http://cvat", job_id), before
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if on_ready is not None:
            on_ready()
        yield
        sender.close()
        queue.close()
        gateway.close()
        store.close()

    app = FastAPI(title=NAME, version=CVAT_VERSION, lifespan=lifespan, docs_url=None)

    @app.exception_handler(RefusalError)
    async def refuse(_: Request, refusal: RefusalError) -> Response:
        return reply(refusal.body, refusal.status)

    @app.get("/api/server/about")
    def about() -> Response:
        return reply(
            {
                "name": NAME,
                "description": "Imitates part of CVAT's REST API on one machine. It is not CVAT.",
                "version": CVAT_VERSION,
                "logo_url": "",
                "subtitle": "a stand-in for demos and tests",
            }
        )

    for router in (
        accounts.routes(store),
        projects.routes(store),
        labels.routes(store),
        tasks.routes(store),
        frames.routes(store),  # before the uploads, whose last path part may be any word
        uploads.routes(store, queue),
        jobs.routes(store),
        annotations.routes(store),
        issues.routes(store),
        webhooks.routes(store, sender),
        functions.routes(store, gateway),
        events.routes(store, queue),
        background.routes(store),
    ):
        # One flat list: of routers that are included, each is searched anew for every request.
        app.router.routes.extend(router.routes)
    app.add_middleware(accounts.Gate, store=store)
    if settings.latency_ms or settings.fault_rate or settings.hang_rate:
        app.add_middleware(
            Faults,
            latency_s=settings.latency_ms / 1000,
            rate=settings.fault_rate,
            seed=settings.fault_seed,
            hang_rate=settings.hang_rate,
        )
    return app
