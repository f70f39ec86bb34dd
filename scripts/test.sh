#!/usr/bin/env bash
# Run all checks of a change: lint, format, imports, types, tests.
#
#   bash scripts/test.sh                       all tests
#   bash scripts/test.sh tests/unit -k bits    pass arguments to pytest
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

setup_env dev
say "lint"
ruff check .
ruff format --check .
lint-imports
say "mypy, and DeepSpeed's extensions beside it"
mypy &
types=$!
# An extension that only a test needs.
python -c 'from deepspeed.accelerator import get_accelerator
get_accelerator().create_op_builder("FusedAdamBuilder").load(verbose=False)' &
fused=$!
dsprune doctor --build-ops
wait $types
wait $fused
say "pytest"
unset PYTHONDONTWRITEBYTECODE  # otherwise every process compiles dsprune and the tests again
# Four processes share the files, even on two cores: tests start ranks, which often wait for each other. The files are
# in the order of tests/conftest.py: the long ones first.
python -m pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
