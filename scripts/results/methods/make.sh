#!/usr/bin/env bash
# Make the runs of docs/methods-compared.md from the models of `scripts/results/recovery/make.sh starts`, and evaluate them
# on the test data. Finished runs are kept, so the script can be interrupted and started again. One CPU core: about three
# minutes a run. On a GPU set NVIDIA_TF32_OVERRIDE=1 and AT_ONCE=12.
#
#   bash scripts/results/methods/make.sh [TASK]...
#   SEEDS=3          seeds of each run; 1 by default
#   AT_ONCE=12       number of runs at a time, see scripts/results/many.py; 1 by default
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/env.sh
source "$here/../../env.sh"
export HF_HUB_OFFLINE=1
home=runs/methods

# run TASK METHOD [ARGUMENT]...
run() {
    dsprune suite "$here/suite.yaml" "$here/../recovery/$1.yaml" budget.epochs=0.64 precision=fp32 deepspeed=zero0 \
        --output "$home/$1" --methods "$2" --seeds "${SEEDS:-1}" ${AT_ONCE:+--dry-run} "${@:3}"
}
methods=(fisher magnitude 'magnitude by matrix' empirical-fisher snip rigl wanda set AC/DC 'SNIP before training'
    'wanda in one shot' random 'rigl by row' 'set by row' movement soft-movement obert)
tuned=(fisher magnitude 'magnitude by matrix' snip rigl set AC/DC)

# all TASK...: the methods at the law's peak, then at half and at twice of it
all() {
    local task name dense
    for task in "$@"; do
        for name in "${methods[@]}"; do run "$task" "$name"; done
    done
    for task in "$@"; do # the law's peak at 90 % is 3.3 times the rate of dense fine-tuning
        dense=3.0e-4
        [[ $task = banking77 ]] || dense=1.0e-4
        for name in "${tuned[@]}"; do
            run "$task" "$name, half the peak" --sparsity 0.9 learning_rate.peak="$(awk "BEGIN {print 1.65 * $dense}")"
            run "$task" "$name, twice the peak" --sparsity 0.9 learning_rate.peak="$(awk "BEGIN {print 6.6 * $dense}")"
        done
    done
}

[[ $# -gt 0 ]] || set -- banking77 movie-reviews
for task in "$@"; do dsprune teacher "$here/../recovery/$task.yaml" precision=fp32 deepspeed=zero0; done
if [[ -n ${AT_ONCE:-} ]]; then
    all "$@" | python "$here/../many.py" --at-once "$AT_ONCE"
else
    all "$@"
    python "$here/../recovery/test_models.py" "$home"
fi
