#!/usr/bin/env bash
# Make the runs of docs/recovery.md, the most telling ones first, then evaluate all models on the test data. Finished
# runs are kept, so the script can be interrupted and started again. One CPU core, about four minutes an epoch of one run.
# Lay out data/minilm, data/sentiment and data/benchmarks/banking77 first: see the end of docs/results.md.
#
#   bash scripts/results/recovery/make.sh [PART]...      parts: starts one short sparser seeds long pretrained test
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/env.sh
source "$here/../../env.sh"
home=runs/recovery
export HF_HUB_OFFLINE=1

# start TASK [KEY.SUB=VALUE]...: fine-tune a dense model, the start and the teacher of the runs
start() {
    [[ -f $home/starts/$1/summary.json ]] ||
        dsprune train "$here/$1.yaml" name="$1" output=$home/starts model.path=data/minilm model.dropout=null \
            pruning=null distillation=null learning_rate.warmup='10 %' "${@:2}"
}

# cells TASK START EPOCHS ARGUMENTS...: run methods at one or more sparsities
cells() {
    local model=()
    [[ $2 = fine-tuned ]] || model=(model.path=data/minilm model.start=pretrained)
    dsprune suite "$here/suite.yaml" "$here/$1.yaml" "${model[@]}" budget.epochs="$3" \
        --output "$home/$1/$2-$3" "${@:4}"
}

# test_models TASK COLUMN LABEL: evaluate each model on the test data, into test.json of its run
test_models() {
    local run
    for run in "$home/starts/$1" "$home/$1"/*/*; do
        if [[ -f $run/summary.json && ! -f $run/test.json ]]; then
            dsprune eval "$run/model" --task text-classification validation="data/recovery/$1/test.csv" text="$2" \
                label="$3" max_length=64 | tail -n 1 >"$run/test.json.part"
            mv "$run/test.json.part" "$run/test.json"
        fi
    done
}

arms=(--methods defaults --methods magnitude)
plain=(--methods 'one decay' --methods 'SMC-Bench schedule')
tasks="banking77 movie-reviews"

part() {
    local task
    case $1 in
        starts)
            [[ -f data/recovery/banking77/test.csv ]] || python "$here/split.py"
            start banking77 budget.steps=900 budget.epochs=null
            start movie-reviews budget.epochs=1.5
            ;;
        one) for task in $tasks; do cells "$task" fine-tuned 1 "${arms[@]}" "${plain[@]}" --methods dense; done ;;
        short) for task in $tasks; do cells "$task" fine-tuned 0.3 "${arms[@]}" --methods 'one decay' --methods dense; done ;;
        sparser) for task in $tasks; do cells "$task" fine-tuned 1 "${arms[@]}" --sparsity 0.8 --sparsity 0.97; done ;;
        long) for task in $tasks; do cells "$task" fine-tuned 3 "${arms[@]}" --sparsity 0.9 --sparsity 0.97; done ;;
        seeds) for task in $tasks; do cells "$task" fine-tuned 1 "${arms[@]}" --seeds 3; done ;;
        pretrained) for task in $tasks; do cells "$task" pretrained 1 "${arms[@]}" --methods dense; done ;;
        test)
            test_models banking77 text category
            test_models movie-reviews sentence label
            ;;
        *) echo "no such part: $1" >&2 && exit 2 ;;
    esac
}

[[ $# -gt 0 ]] || set -- starts one sparser short seeds long pretrained test
for name in "$@"; do part "$name"; done
