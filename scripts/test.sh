#!/usr/bin/env bash
# Everything that must hold before a change is merged: lint, format, types, tests.
#
#   bash scripts/test.sh                       all of it
#   bash scripts/test.sh tests/unit -k bits    arguments go to pytest
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

setup_env dev
say "ruff"
ruff check .
ruff format --check .
say "mypy, and DeepSpeed's extensions at the same time"
mypy &
types=$!
# One test needs this one beside those that runs need.
python -c 'from deepspeed.accelerator import get_accelerator
get_accelerator().create_op_builder("FusedAdamBuilder").load(verbose=False)' &
fused=$!
dsprune doctor --build-ops
wait $types
wait $fused
say "pytest"
# Files are shared out to four processes, on two cores too: tests start ranks of their own, which wait for one another
# much of the time. They come in the order of their folders, which has the long ones first.
python -m pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
