#!/usr/bin/env bash
# Run the tests and benchmarks that need a GPU. Report the output of this script.
#
#   bash scripts/gpu_check.sh
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

setup_env dev
python -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || die "no GPU: torch finds none on this machine"
python -c 'import torch, triton; print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)'
say "tests"
status=0
python -m pytest -q -m "gpu or not gpu" tests/gpu tests/unit/test_triton_kernels.py tests/unit/test_triton_compiled.py || status=$?
say "measurements"
python scripts/bench_core.py --only device launches
exit $status
