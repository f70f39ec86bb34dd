#!/usr/bin/env bash
# The Python environment of this repository, in .venv: created once, then reused.
#
#   bash scripts/env.sh         dsprune and its dependencies
#   bash scripts/env.sh dev     and the tools of the tests
#   source scripts/env.sh       in a script: then `setup_env [dev]` puts .venv/bin on its PATH
#
# PYTHON              the interpreter of .venv (3.11 or newer; default: the first one on PATH)
# DSPRUNE_TORCH_INDEX the package index of torch, for example https://download.pytorch.org/whl/cu128
#
# An existing torch in .venv is kept, whatever its version: to use the cluster's own build, first create .venv with
# `python3 -m venv --system-site-packages .venv`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TORCH_VERSION=2.13.0

# One thread a rank: two ranks with more threads than cores are ten times slower. Values that are set are kept.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
# On a CPU, glibc returns the memory of every large tensor to the system page by page, and requests it again: a fifth of
# a step's time. Let it keep 4 GB.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-4000000000}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4000000000}

say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

die() { printf '%s\n' "$*" >&2; exit 1; }

has_gpu() { nvidia-smi -L >/dev/null 2>&1; }

# The number of ranks to start: one for each GPU that torch finds, or two on CPU.
num_ranks() { python -c 'import torch; print(torch.cuda.device_count() or 2)'; }

free_port() {
    python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

python_is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11)
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if python_is_new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    die "PYTHON: ${PYTHON:-python3} is missing or older than 3.11: install a newer Python, or name one, PYTHON=/path/to/python3.12"
}

pip_install() { python -m pip install -qq --disable-pip-version-check --retries 10 "$@"; }

# torch is installed first and alone, from the index that is chosen here; its dependencies follow with those of dsprune.
# `===` selects PyPI's build even if pip's find-links have a CPU build (2.13.0+cpu).
install_torch() {
    local version
    if version=$(python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null); then
        say "torch $version is installed: kept"
    elif [[ -n ${DSPRUNE_TORCH_INDEX:-} ]]; then
        say "installing torch $TORCH_VERSION from $DSPRUNE_TORCH_INDEX"
        pip_install --no-deps --index-url "$DSPRUNE_TORCH_INDEX" "torch==$TORCH_VERSION"
    elif has_gpu; then
        say "installing torch $TORCH_VERSION, the CUDA build of the package index (several GB with its libraries)"
        pip_install --no-deps "torch===$TORCH_VERSION"
    elif pip_install --no-deps --no-index "torch==$TORCH_VERSION" 2>/dev/null; then
        say "installed torch $TORCH_VERSION from a local wheel (pip's find-links)"
    else
        local index=https://download.pytorch.org/whl/cpu
        say "installing torch $TORCH_VERSION, the CPU build of $index"
        pip_install --no-deps --index-url "$index" "torch==$TORCH_VERSION" ||
            die "torch $TORCH_VERSION: not found in $index: set another index in DSPRUNE_TORCH_INDEX" \
                "(the default one has a CUDA build of several GB)"
    fi
}

# Everything that determines an installation: the declared packages, and the folder of the editable install.
fingerprint() { { echo "$ROOT"; cat "$ROOT/pyproject.toml"; } | python -c '
import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }

# setup_env [dev]: create or complete .venv, and put it first on PATH.
setup_env() {
    local extras=${1:-} venv="$ROOT/.venv" python
    if ! python_is_new_enough "$venv/bin/python"; then
        python=$(find_python)
        say "creating .venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
    # dsprune uses one folder per environment; tests that start DeepSpeed without dsprune need it too.
    export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$venv/torch_extensions}

    local stamp="$venv/dsprune-${extras:-base}.stamp" wanted
    wanted=$(fingerprint)
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        say "environment: .venv is complete"
        return
    fi
    install_torch
    say "installing dsprune${extras:+ with [$extras]} and its dependencies"
    pip_install --editable "$ROOT${extras:+[$extras]}"
    echo "$wanted" >"$venv/dsprune-base.stamp"
    echo "$wanted" >"$stamp"
    say "environment: .venv is ready"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    set -euo pipefail
    setup_env "$@"
fi
