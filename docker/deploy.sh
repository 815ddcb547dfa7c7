#!/usr/bin/env bash
# Deploys the three Nuclio functions; CPU=1 deploys the CPU variants.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
if ! command -v nuctl >/dev/null 2>&1; then
  echo "nuctl is not installed; install the version of CVAT's Nuclio dashboard (1.16.3 for CVAT 2.73), see docs/deploy.md" >&2
  exit 2
fi
file=function-gpu.yaml
[ -n "${CPU:-}" ] && file=function.yaml
nuctl create project cvat --platform local 2>/dev/null || true
for name in interactor detector tracker; do
  nuctl deploy --project-name cvat --path "$here/serverless/$name" --file "$here/serverless/$name/$file" \
    --platform local --platform-config '{"attributes": {"network": "cvat_cvat"}}'
done
