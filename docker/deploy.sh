#!/usr/bin/env bash
# Deploys the three Nuclio functions: the promoted teacher on a GPU, or with CPU=1 the released
# student. ANGIOLOOP_DATA is the workspace whose models/ they watch.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
data=${ANGIOLOOP_DATA:-/srv/angioloop}
for tool in docker nuctl; do
  if ! command -v "$tool" >/dev/null 2>&1; then
    echo "$tool is not installed; nuctl must be the version of CVAT's Nuclio dashboard (1.16.3 for CVAT 2.73), see docs/deploy.md" >&2
    exit 2
  fi
done
if [ ! -d "$data/models" ]; then
  echo "$data/models is not there; set ANGIOLOOP_DATA to the workspace, see .env.example" >&2
  exit 2
fi
if [ -n "${CPU:-}" ]; then
  file=function.yaml variant=cpu extras=serve,infer
else
  file=function-gpu.yaml variant=gpu extras=serve,train,gpu
fi
docker build --file "$here/docker/function.Dockerfile" --build-arg "EXTRAS=$extras" \
  --tag "angioloop/function:0.1.0-$variant" "$here"
nuctl create project cvat --platform local 2>/dev/null || true
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in interactor detector tracker; do
  mkdir "$work/$name"
  cp "$here/serverless/$name/main.py" "$work/$name/"
  sed "s|path: /srv/angioloop/models|path: $data/models|" "$here/serverless/$name/$file" > "$work/$name/$file"
  nuctl deploy --project-name cvat --path "$work/$name" --file "$work/$name/$file" \
    --platform local --platform-config '{"attributes": {"network": "cvat_cvat"}}'
done
