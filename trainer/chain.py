"""The order of a round's steps, what each needs, and how they are queued.

Sends by task name; knows nothing of how a step works.
"""

from pathlib import Path

from celery import Celery, chain
from kombu.exceptions import OperationalError

from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.embedded import ensure_worker
from casebook.errors import StateError, UnreachableError
from casebook.home import Home
from casebook.rounds import RoundFolder
from trainer.app import configured_app
from trainer.cancellation import is_cancelled
from trainer.requests import Request, ask, pending

STEP_FILES = {
    "select": "manifest.json",
    "propose": "proposals.coco.json",
    "train": "candidate.json",
    "evaluate": "evaluation.json",
    "decide": "decision.json",
    "promote": "promotion.json",
    "report": "report.json",
}
"""What each step writes."""
TRAINING = ("train", "evaluate", "decide", "promote", "report")
"""What `make train` runs, after the selection in round 1."""


_ANSWER_S = 10.0
"""How long a worker of one's own broker may take to say that it is there."""


def steps_of(number: int) -> tuple[str, ...]:
    """The steps `make train` runs for a round: round 1 also selects."""
    return ("select", *TRAINING) if number == 1 else TRAINING


def steps_left(folder: RoundFolder) -> tuple[str, ...]:
    """Steps of the round's training whose file is not there yet, from the first missing one on."""
    steps = steps_of(folder.number)
    missing = [index for index, step in enumerate(steps) if not folder.has(STEP_FILES[step])]
    return steps[missing[0] :] if missing else ()


def check_ready(folder: RoundFolder, source: str = "expert") -> None:
    """Refuse to train a round whose annotations are not there.

    Args:
        source: Whose masks round 1 takes; of others than experts' the selection tells.

    Raises:
        StateError: says which command writes the missing file.
    """
    number = folder.number
    if number == 1:
        if folder.has("manifest.json"):
            return
        catalogue = Catalogue(folder.home)
        if source == "expert" and not any(
            True for _ in catalogue.cases(split=Split.TRAIN, annotated=True)
        ):
            raise StateError(
                "round 01: the catalogue has no train case with expert annotations. Import some "
                "with `casebook import`"
            )
        return
    folder.need(
        "annotations.coco.json",
        f"Run `cvatsync push --round {number}`, annotate, then `cvatsync pull --round {number}`.",
    )
    before = RoundFolder(folder.home, number - 1)
    before.need("decision.json", f"Run `make train ROUND={number - 1}` first.")


def queue_steps(
    folder: RoundFolder, steps: tuple[str, ...], conf: Path, overrides: tuple[str, ...] = ()
) -> None:
    """Put steps in the queue, one after the other, and see that somebody does them."""
    request = pending(folder)
    if request is not None and is_cancelled(folder, request.at):
        request = None  # about to stop
    if folder.home.embedded and request is not None and _covers(request, steps, conf, overrides):
        ensure_worker(folder.home)  # one that lives is at it; a new one resumes it
        return
    app = configured_app(folder.home)
    try:
        if folder.home.embedded:
            ensure_worker(folder.home)  # before asking: a worker that starts resumes what it finds
        elif not app.control.ping(timeout=_ANSWER_S, limit=1):
            raise UnreachableError(
                f"no worker answers on {_address(folder.home)} within {_ANSWER_S:.0f} s; start one "
                "with `python -m trainer.worker`"
            )
        send(app, folder, ask(folder, steps, conf, overrides))
    except (OperationalError, OSError) as problem:
        raise UnreachableError(
            f"the queue at {_address(folder.home)} does not answer ({problem}); start it, or unset "
            "ANGIOLOOP_BROKER to use the embedded one"
        ) from None


def send(app: Celery, folder: RoundFolder, request: Request, *, retry: bool = False) -> None:
    """Put what is left of a request in the queue, one step after the other.

    Args:
        retry: Wait for a broker that is away instead of refusing.
    """
    kwargs = {
        "round": folder.number,
        "home": str(folder.home.root),
        "conf": request.conf,
        "overrides": list(request.overrides),
        "asked": request.at.isoformat(),
    }
    names = [f"angioloop.{step}" for step in request.left]
    links = [app.signature(name, kwargs=kwargs, immutable=True) for name in names]
    # A connection of its own: the app keeps the first one, whichever workspace it was for.
    with app.connection_for_write() as connection:
        chain(*links, app=app).apply_async(retry=retry, connection=connection)


def _address(home: Home) -> str:
    """The broker's address without its password."""
    scheme, _, rest = home.broker_url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _covers(
    request: Request, steps: tuple[str, ...], conf: Path, overrides: tuple[str, ...]
) -> bool:
    same = request.conf == str(conf.resolve()) and request.overrides == overrides
    return same and set(steps) <= set(request.left)
