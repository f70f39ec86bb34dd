#!/usr/bin/env bash
# Build the wheel and the source archive, and test the wheel like a user: in another environment without the repository,
# in an empty folder. The wheel is built from the source archive, so both are tested.
#
#   bash scripts/package.sh [FOLDER]     keep the results in FOLDER
#
# The packages that dsprune requires are those of .venv; others that are installed there are not visible.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

setup_env dev
unset PYTHONPATH
scratch=$(mktemp --directory)
trap 'rm -rf "$scratch"' EXIT
built=${1:-$scratch/dist}
say "building"
python -m build --outdir "$built" "$ROOT" >"$scratch/build.log" || die "$(<"$scratch/build.log")"
find "$built" -name 'dsprune-*' -printf '%f, %s bytes\n'

say "installing the wheel"
python -m venv --without-pip "$scratch/venv"
python -m pip --python "$scratch/venv/bin/python" install -qq --no-deps --no-index "$built"/dsprune-*.whl
python "$ROOT/scripts/lend_packages.py" "$scratch"/venv/lib/python*/site-packages
export HF_HUB_OFFLINE=1 PATH="$scratch/venv/bin:$PATH"
mkdir "$scratch/empty"
cd "$scratch/empty"
python -c 'import dsprune, sys; sys.exit(not dsprune.__file__.startswith(sys.prefix))' ||
    die "the dsprune that is imported is not that of the wheel"
dsprune --version
dsprune schema >/dev/null

say "a tiny model and its data"
python - "$scratch" <<'END'
import sys
from pathlib import Path
from dsprune.testing.tiny import tiny_bert, tiny_sentiment
tiny_bert(Path(sys.argv[1], "bert"))
tiny_sentiment(Path(sys.argv[1], "data"), num_train=320)
END
data=$scratch/data
recipe=(sentiment-90 "model.path=$scratch/bert" "task.train=$data/train.csv" "task.validation=$data/validation.csv"
    task.text=text distillation=null budget.epochs=4 learning_rate.peak=5e-3 deepspeed=zero2)
say "dsprune plan"
dsprune plan "${recipe[@]}"
say "dsprune train"
dsprune train "${recipe[@]}"
say "dsprune audit"
dsprune audit runs/sentiment-90
say "dsprune doctor"
dsprune doctor
if ((EUID == 0)) && command -v slurmctld slurmd munged sbatch >/dev/null; then
    say "dsprune submit"
    # shellcheck disable=SC2016
    PYTHONPATH=$ROOT python -m tests.cluster.slurm env --unset=PYTHONPATH \
        dsprune submit "${recipe[@]}" --gpus-per-node=1 --time=10 --dry-run | tee "$scratch/submit.log"
    grep -q "$scratch/venv/.*/dsprune/slurm/train.sbatch" "$scratch/submit.log"
fi
say "the wheel works"
