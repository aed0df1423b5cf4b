#!/usr/bin/env bash
# Runs tests again and again beside other work that keeps every core busy: those that kill, wait or start processes must
# not depend on how fast a machine is.
#
#   bash tests/loaded.sh 20 tests/engine/faults tests/launch        twenty rounds of these
#
# The other work is stress-ng's (apt-get install stress-ng). Exit status 1 if any round had a failure.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch/common.sh"

rounds="${1:-}"
[[ "$rounds" =~ ^[1-9][0-9]*$ && $# -ge 2 ]] || fail 2 "say how often, and which tests: bash tests/loaded.sh 20 tests/launch"
shift
command -v stress-ng >/dev/null || fail 2 "stress-ng is missing: apt-get install stress-ng"
cd "$root"
stress-ng --cpu "$(nproc)" --quiet &
trap 'kill %1 2>/dev/null || true' EXIT
failed=0
for ((round = 1; round <= rounds; round++)); do
    say "== round $round of $rounds =="
    "$python" -m pytest -q --numprocesses=logical --maxprocesses=8 --dist=loadfile "$@" || failed=$((failed + 1))
done
say "$rounds rounds beside stress-ng, $failed with failures"
((failed == 0))
