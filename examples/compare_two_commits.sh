#!/usr/bin/env bash
# Two commits of the repository you are in, in turns: compare_two_commits.sh BASE HEAD COMMAND...
# Exit code: 0 nothing regressed, 1 regressed, 3 undecided or the machine is unfit.
#   compare_two_commits.sh origin/main HEAD pytest tests/bench -q
set -euo pipefail
base=$1 head=$2
shift 2
exec chipmark ab --base "$base" --head "$head" --summary gate.md --junit gate.xml -- "$@"
