#!/bin/sh
# Makes docker/keys: certificates and node keys for compose.yaml, with the fedlab of this machine or of the image.
#   docker/make_keys.sh [HOST ...]     HOST: more names or addresses that the SuperLink is reached by
set -eu
cd "$(dirname "$0")"
if [ -f .env ]; then . ./.env; fi
keys="${FEDLAB_KEYS:-./keys}"
hosts="--host superlink --host localhost --host 127.0.0.1"
for host in "$@"; do hosts="$hosts --host $host"; done
mkdir -p "$keys"
if command -v fedlab >/dev/null; then
    # shellcheck disable=SC2086  # one word for each host
    exec fedlab deploy keys "$keys" --nodes 4 $hosts
fi
# shellcheck disable=SC2086
exec docker run --rm --user "$(id -u):$(id -g)" --volume "$(cd "$keys" && pwd):/keys" \
    "fedlab:${FEDLAB_IMAGE:-cpu}" fedlab deploy keys /keys --nodes 4 $hosts
