# Base image of the Nuclio functions. Build from the repository's root (`make deploy` does):
#   docker build -f docker/function.Dockerfile --build-arg EXTRAS=serve,infer -t angioloop/function:0.1.0-cpu .
#   docker build -f docker/function.Dockerfile --build-arg EXTRAS=serve,train,gpu -t angioloop/function:0.1.0-gpu .
FROM python:3.11.13-slim-bookworm

ARG EXTRAS=serve,infer
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 angioloop \
    && mkdir -p /opt/angioloop /opt/venv \
    && chown -R angioloop:angioloop /opt/angioloop /opt/venv

# Nuclio adds its own wheels with pip at build time: the environment belongs to the user.
USER angioloop
WORKDIR /opt/angioloop
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 ANGIOLOOP_HOME=/workspace ANGIOLOOP_CONF=/opt/angioloop/conf
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
RUN pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[${EXTRAS}]"
