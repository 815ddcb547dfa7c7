#!/usr/bin/env bash
# Deploys the three Nuclio functions: the promoted teacher on a GPU, with CPU=1 the released student,
# or with SHARED=http://HOST:PORT functions without a model over the shared model process, of which
# WORKERS=N run each. MODEL=sam2 or nnunet serves that model instead, on a GPU or with CPU=1 without.
# TRACKS=redis://HOST:PORT/DB keeps tracked objects in Redis. ANGIOLOOP_DATA is the workspace whose
# models/ they watch.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
data=${ANGIOLOOP_DATA:-/srv/angioloop}
shared=${SHARED:-} tracks=${TRACKS:-} workers=${WORKERS:-1} model=${MODEL:-}
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
if [ -n "$shared" ] && [[ ! "$shared" =~ ^http://[A-Za-z0-9._-]+:[0-9]+$ ]]; then
  echo "SHARED is '$shared'; expected http://HOST:PORT, for instance http://angioloop_model:8090" >&2
  exit 2
fi
if [ -n "$tracks" ] && [[ ! "$tracks" =~ ^redis://[A-Za-z0-9._-]+:[0-9]+/[0-9]+$ ]]; then
  echo "TRACKS is not redis://HOST:PORT/DATABASE without a password; for instance redis://angioloop_redis:6379/1" >&2
  exit 2
fi
if [[ ! "$workers" =~ ^[1-9][0-9]?$ ]] || { [ "$workers" != 1 ] && [ -z "$shared" ]; }; then
  echo "WORKERS is '$workers'; expected 1, or up to 99 with SHARED: else each worker holds a model of its own" >&2
  exit 2
fi
case "$model" in
  "" | sam2 | nnunet) ;;
  *)
    echo "MODEL is '$model'; expected sam2, nnunet, or nothing: the promoted teacher, with CPU=1 the released student" >&2
    exit 2
    ;;
esac
if [ -n "$model" ] && [ -n "$shared" ]; then
  echo "MODEL and SHARED are both given; a function over a shared model has none of its own: set ANGIOLOOP_MODEL of that process" >&2
  exit 2
fi
if [ -n "$model" ] && [ ! -d "$data/models/$model" ]; then
  echo "$data/models/$model is not there; docs/deploy.md, other models, says how to get it" >&2
  exit 2
fi
if [ -n "$shared" ] || [ -n "${CPU:-}" ]; then
  file=function.yaml variant=cpu extras=serve,infer
else
  file=function-gpu.yaml variant=gpu extras=serve,train,gpu
fi
if [ -n "$model" ]; then  # these compute with torch, on a processor too
  extras=${extras/infer/train},$model
fi
docker build --file "$here/docker/function.Dockerfile" --build-arg "EXTRAS=$extras" \
  --tag "angioloop/function:0.1.0-$variant" "$here"
nuctl create project cvat --platform local 2>/dev/null || true
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in interactor detector tracker; do
  mkdir "$work/$name"
  cp "$here/serverless/$name/main.py" "$work/$name/"
  sed -e "s|path: /srv/angioloop/models|path: $data/models|" \
    ${model:+-e "/name: ANGIOLOOP_MODEL/{n;s|value: .*|value: $model|;}"} \
    -e "/name: ANGIOLOOP_SHARED/{n;s|\"\"|\"$shared\"|;}" \
    -e "/name: ANGIOLOOP_TRACKS/{n;s|\"\"|\"$tracks\"|;}" \
    -e "s|numWorkers: 1$|numWorkers: $workers|" \
    "$here/serverless/$name/$file" > "$work/$name/$file"
  nuctl deploy --project-name cvat --path "$work/$name" --file "$work/$name/$file" \
    --platform local --platform-config '{"attributes": {"network": "cvat_cvat"}}'
done
