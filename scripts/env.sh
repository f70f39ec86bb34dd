#!/usr/bin/env bash
# The Python environment of this repository, in .venv: made once, reused after that.
#
#   bash scripts/env.sh         everything that dsprune needs
#   bash scripts/env.sh dev     the tools of the tests as well
#   source scripts/env.sh       in a script: then `setup_env [dev]` puts .venv/bin on its PATH
#
# PYTHON              the interpreter to make .venv from (3.11 or newer; default: the first that fits on PATH)
# DSPRUNE_TORCH_INDEX the package index to take torch from, for example https://download.pytorch.org/whl/cu128
#
# A torch that .venv holds already is kept, whatever its version: to use the cluster's own build, make .venv
# beforehand with `python3 -m venv --system-site-packages .venv`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TORCH_VERSION=2.13.0

# One thread a rank: two ranks with more threads than cores are ten times slower. Yours win where you set them.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
# On a CPU, glibc gives the memory of every large tensor back to the system, page by page, and asks for it again:
# a fifth of a step's time. It may keep 4 GB.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-4000000000}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4000000000}

say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

die() { printf '%s\n' "$*" >&2; exit 1; }

has_gpu() { nvidia-smi -L >/dev/null 2>&1; }

# The number of ranks to start here: one a GPU that torch sees, and two on CPU.
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

# torch comes first and alone (its dependencies follow with dsprune), so that where it comes from is decided here.
# `===` takes PyPI's own build even where a CPU build (2.13.0+cpu) lies in pip's find-links.
install_torch() {
    local version
    if version=$(python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null); then
        say "torch $version is there: kept"
    elif [[ -n ${DSPRUNE_TORCH_INDEX:-} ]]; then
        say "installing torch $TORCH_VERSION from $DSPRUNE_TORCH_INDEX"
        pip_install --no-deps --index-url "$DSPRUNE_TORCH_INDEX" "torch==$TORCH_VERSION"
    elif has_gpu; then
        say "installing torch $TORCH_VERSION, the CUDA build of the package index (several GB with its libraries)"
        pip_install --no-deps "torch===$TORCH_VERSION"
    elif pip_install --no-deps --no-index "torch==$TORCH_VERSION" 2>/dev/null; then
        say "installed torch $TORCH_VERSION from the wheels on this disk (pip's find-links)"
    else
        local index=https://download.pytorch.org/whl/cpu
        say "installing torch $TORCH_VERSION, the CPU build of $index"
        pip_install --no-deps --index-url "$index" "torch==$TORCH_VERSION" ||
            die "torch $TORCH_VERSION: not to be had from $index: name another index in DSPRUNE_TORCH_INDEX" \
                "(the default one has a CUDA build of several GB)"
    fi
}

# What an installation depends on: the declared packages, and the place that the editable install points at.
fingerprint() { { echo "$ROOT"; cat "$ROOT/pyproject.toml"; } | python -c '
import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }

# Make or complete .venv with the extras named (none or "dev"), and put it first on PATH.
setup_env() {
    local extras=${1:-} venv="$ROOT/.venv" python
    if ! python_is_new_enough "$venv/bin/python"; then
        python=$(find_python)
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
    # DeepSpeed compiles its extensions against this environment; in torch's common cache, two environments would
    # compile over each other's.
    export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$venv/torch_extensions}

    local stamp="$venv/dsprune-${extras:-base}.stamp" wanted
    wanted=$(fingerprint)
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        say "environment: .venv is complete"
        return
    fi
    install_torch
    say "installing dsprune${extras:+ with [$extras]} and what it needs"
    pip_install --editable "$ROOT${extras:+[$extras]}"
    echo "$wanted" >"$venv/dsprune-base.stamp"
    echo "$wanted" >"$stamp"
    say "environment: .venv is ready"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    set -euo pipefail
    setup_env "$@"
fi
