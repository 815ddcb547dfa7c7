# The Celery worker, which trains; TensorBoard and the watch run from the same image. Build from the root:
#   docker build -f docker/worker.Dockerfile -t angioloop/worker:0.1.0 .
FROM python:3.11.13-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 angioloop \
    && mkdir -p /opt/angioloop /opt/venv /workspace \
    && chown -R angioloop:angioloop /opt/angioloop /opt/venv /workspace

USER angioloop
WORKDIR /opt/angioloop
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 ANGIOLOOP_HOME=/workspace
RUN python -m venv /opt/venv
COPY --chown=angioloop pyproject.toml constraints.txt README.md LICENSE THIRD_PARTY_NOTICES.md ./
COPY --chown=angioloop casebook casebook
COPY --chown=angioloop angio angio
COPY --chown=angioloop segmenter segmenter
COPY --chown=angioloop export export
COPY --chown=angioloop trainer trainer
COPY --chown=angioloop cvat_sync cvat_sync
COPY --chown=angioloop serverless serverless
COPY --chown=angioloop conf conf
RUN pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[train,worker,cvat,gpu]"

CMD ["python", "-m", "trainer.worker", "--home", "/workspace"]
