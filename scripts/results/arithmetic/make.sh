#!/usr/bin/env bash
# Make the runs of docs/arithmetic.md, the most important ones first, then the page. Finished runs are kept, so the
# script can be interrupted and started again. A run of MAWPS takes five to ten minutes on one CPU core. On a GPU set
# AT_ONCE=16 and SETTINGS=precision=bf16: a run of MAWPS takes about 70 seconds then. Lay out data/minilm and
# data/benchmarks/mwp first: see the end of docs/results-0.1.md.
#
#   bash scripts/results/arithmetic/make.sh [TASK]...
#   AT_ONCE=16             number of runs at a time, see scripts/results/many.py; 1 by default
#   SETTINGS='KEY=VALUE'   more recipe values, for all runs
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/env.sh
source "$here/../../env.sh"
export HF_HUB_OFFLINE=1
home=runs/arithmetic

# A small encoder, a matching decoder, and a tenth of the epochs, with the shape of SMC-Bench's schedule: the rate is
# halved after 40 and 80 % of the run.
common=(
    model.path=data/minilm model.dropout=0.1 task.folder=data/benchmarks/mwp task.decoder_size=128
    budget.epochs=5 budget.batch=16 learning_rate.scale='{"encoder.*": 0.1}' learning_rate.decay_every='2 epochs'
    checkpoints.every='100 %' tracking.eval_every='100 %'
)
read -ra settings <<<"${SETTINGS:-precision=fp32 deepspeed=zero0}"

# cells TASK METHOD SPARSITY [ARGUMENT]...
cells() {
    local task=("task.name=$1")
    [[ $1 = svamp ]] || task+=(task.fold=0)
    dsprune suite "$here/suite.yaml" smc-arithmetic "${task[@]}" "${common[@]}" "${settings[@]}" --output "$home/$1" \
        --methods "$2" --sparsity "$3" ${AT_ONCE:+--dry-run} "${@:4}"
}

# all TASK...: one seed of every cell, then three seeds at 80 %
all() {
    local task sparsity method
    for task in "$@"; do
        for sparsity in 0.8 0.9 0.5; do
            for method in "${methods[@]}"; do cells "$task" "$method" "$sparsity"; done
        done
    done
    for task in "$@"; do
        for method in "${methods[@]}"; do cells "$task" "$method" 0.8 --seeds 3; done
    done
}

at_once() { python "$here/../many.py" --at-once "$AT_ONCE" --no-test "$@"; }

methods=('defaults, fine-tuned' 'SMC-Bench, fine-tuned' defaults SMC-Bench)
[[ $# -gt 0 ]] || set -- mawps svamp asdiv-a
if [[ -n ${AT_ONCE:-} ]]; then # first the dense runs, then a store of each, then the rest
    commands=$(all "$@" | awk '!seen[$0]++')
    grep -F 'name=teacher-' <<<"$commands" | at_once --keep
    awk 'match($0, /runs[^ ]*store-seed[0-9]+/) && !seen[substr($0, RSTART, RLENGTH)]++ { sub(/train/, "teacher"); print }' \
        <<<"$commands" | at_once
    grep -vF 'name=teacher-' <<<"$commands" | at_once
else
    all "$@"
fi
python "$here/page.py" "$home"
