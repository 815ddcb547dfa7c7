#!/usr/bin/env bash
# docker compose over CVAT's own files and our override, named last: with explicit -f files compose
# does not load docker-compose.override.yml by itself.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
cvat=${CVAT_DIR:-}
if ! command -v docker >/dev/null 2>&1; then
  echo "docker is not installed; install Docker Engine with the compose plugin, see docs/deploy.md" >&2
  exit 2
fi
if [ -z "$cvat" ] || [ ! -f "$cvat/docker-compose.yml" ]; then
  echo "CVAT_DIR does not name a CVAT checkout (found '${cvat:-nothing}'); set it to the folder with CVAT's docker-compose.yml" >&2
  exit 2
fi
export ANGIOLOOP_DIR=${ANGIOLOOP_DIR:-$here}
profiles=()
if [ -n "${SHARED:-}" ]; then profiles+=(--profile shared); fi
if [ -n "${WATCH:-}" ]; then profiles+=(--profile watch); fi
cd "$cvat"
exec docker compose ${profiles[@]+"${profiles[@]}"} \
  -f docker-compose.yml \
  -f components/serverless/docker-compose.serverless.yml \
  -f "$ANGIOLOOP_DIR/docker-compose.override.yml" \
  "$@"
