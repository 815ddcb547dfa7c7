#!/usr/bin/env bash
# Writes the digest of every image that others publish beside its tag: in docker-compose.override.yml
# and in the Dockerfiles. All digests are asked for first; if one is missing nothing is written.
set -euo pipefail
root=${1:-$(cd "$(dirname "$0")/.." && pwd)}
if ! command -v docker >/dev/null 2>&1; then
  echo "docker is not installed; install Docker Engine with buildx, see docs/deploy.md" >&2
  exit 2
fi
files=("$root/docker-compose.override.yml" "$root"/docker/*.Dockerfile)
images=$(sed -nE 's/^(FROM|[[:space:]]+image:)[[:space:]]+([^[:space:]@]+).*/\2/p' "${files[@]}" | grep -v '^angioloop/' | sort -u)
script=$(mktemp)
trap 'rm -f "$script"' EXIT
for image in $images; do
  if ! digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}') ||
    [[ ! "$digest" =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "no digest for $image: its registry did not answer; nothing was written. Run make pin-images where it can be reached" >&2
    exit 1
  fi
  echo "s|^((FROM\|[[:space:]]+image:)[[:space:]]+${image//./\\.})(@sha256:[0-9a-f]+)?([[:space:]]\|\$)|\1@$digest\4|" >> "$script"
  echo "$image $digest"
done
for file in "${files[@]}"; do
  sed -E -f "$script" "$file" > "$file.new"
  mv "$file.new" "$file"
done
