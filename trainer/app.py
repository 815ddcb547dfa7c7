"""The Celery app: JSON only, embedded SQLite transport by default, Redis by one setting.

Knows no task: the worker includes `trainer.tasks`; clients send by name.
"""

from celery import Celery
from kombu.transport.sqlalchemy import Transport

from casebook.home import Home

VISIBILITY_TIMEOUT_S = 12 * 3600
"""On Redis a message is delivered again after this long; a round trains 2 to 3 hours."""
_POLL_S = 0.2
_PATIENCE = {"max_retries": 8640, "interval_start": 0.2, "interval_step": 1.0, "interval_max": 5.0}
"""How a worker hands on the next step of a chain while the broker is away: for twelve hours. After
Celery's own three attempts within a second the rest of the chain would be lost."""


def configured_app(home: Home) -> Celery:
    """The app, connected to the broker of a workspace."""
    options = {} if home.embedded else {"visibility_timeout": VISIBILITY_TIMEOUT_S}
    if home.embedded:
        home.queue.mkdir(parents=True, exist_ok=True)
        # The transport option of this name would be handed on to SQLAlchemy, which refuses it.
        Transport.polling_interval = _POLL_S
    app.conf.update(broker_url=home.broker_url, broker_transport_options=options)
    return app


app = Celery("angioloop")
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    # Early acknowledgement would lose a task whose worker dies on Redis; the embedded transport
    # drops messages on receipt whatever this says, and the worker resumes from the files instead.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    task_publish_retry_policy=_PATIENCE,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # for ever; Celery's own hundred end after 50 minutes
    enable_utc=True,
)
