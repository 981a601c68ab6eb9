#!/usr/bin/env bash
# A workload of your own on a backend: own_workload.sh [BACKEND] [FOLDER]
set -euo pipefail
workload=$(dirname "${BASH_SOURCE[0]}")/own_workload.toml
backend=${1:-sim:golden}
runs=${2:-runs/own-workload}

chipmark workload show "$workload" --sessions 50 # realised quantiles next to the targets
chipmark run quick -b "$backend" -w "$workload" -o "$runs"
chipmark validate "$runs"
