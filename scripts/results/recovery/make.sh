#!/usr/bin/env bash
# Make the runs of docs/recovery.md, the most telling ones first, then evaluate all models on the test data. Finished
# runs are kept, so the script can be interrupted and started again. One CPU core, about four minutes an epoch of one run.
# Lay out data/minilm, data/sentiment, data/benchmarks/banking77 and data/benchmarks/mwp first: see the end of docs/results.md.
#
#   bash scripts/results/recovery/make.sh [PART]...      parts: those of the case below
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

# cells TASK START EPOCHS METHODS ARGUMENTS...: run methods, separated by commas, at one or more sparsities
cells() {
    local model=() methods=() names
    [[ $2 = fine-tuned ]] || model=(model.path=data/minilm model.start=pretrained)
    IFS=, read -ra names <<<"$4"
    for name in "${names[@]}"; do methods+=(--methods "$name"); done
    dsprune suite "$here/suite.yaml" "$here/$1.yaml" "${model[@]}" budget.epochs="$3" \
        --output "$home/$1/$2-$3" "${methods[@]}" "${@:5}"
}

# each START EPOCHS METHODS ARGUMENTS...: the same for both tasks
each() { for task in banking77 movie-reviews; do cells "$task" "$@"; done; }

part() {
    case $1 in
        starts)
            [[ -f data/recovery/banking77/test.csv ]] || python "$here/split.py"
            start banking77 budget.steps=900 budget.epochs=null
            start movie-reviews budget.epochs=1.5
            start mawps budget.epochs=10
            ;;
        two-thirds)
            cells banking77 fine-tuned 0.64 'defaults,SMC-Bench schedule' --sparsity 0.9 --sparsity 0.97
            ;;
        one) each fine-tuned 1 'defaults,one decay,magnitude,dense' ;;
        guidelines)
            cells banking77 fine-tuned 1 \
                'labels alone,SMC-Bench schedule,none,embeddings and head pruned,no first jump'
            cells banking77 fine-tuned 1 'dense rate' learning_rate.peak=3.0e-4
            ;;
        short)
            cells banking77 fine-tuned 0.3 'defaults,rewinds,one decay' --sparsity 0.97 --seeds 3
            cells banking77 fine-tuned 0.3 'defaults,rewinds,one decay' --sparsity 0.9 --seeds 2
            ;;
        sparser) each fine-tuned 1 defaults,magnitude --sparsity 0.8 --sparsity 0.97 ;;
        third) cells mawps fine-tuned 3 dense,defaults --sparsity 0.8 --sparsity 0.9 --sparsity 0.97 --seeds 3 ;;
        methods)
            for task in banking77 movie-reviews; do
                dsprune suite "$here/methods.yaml" "$here/$task.yaml" budget.epochs=0.64 --output "$home/$task/methods-0.64"
            done
            ;;
        seeds) each fine-tuned 1 defaults,magnitude --seeds 3 ;;
        pretrained) each pretrained 1 defaults,magnitude,dense ;;
        long) each fine-tuned 3 defaults,magnitude,dense --sparsity 0.8 --sparsity 0.9 --sparsity 0.97 ;;
        bytes) # the model of docs/compact.md: the demo's, with the used vocabulary
            dsprune train sentiment-90 model.vocabulary=used distillation.hardness=1.0 name=sentiment-90-used output=$home/demo
            ;;
        test) python "$here/test_models.py" "$home" ;;
        *) echo "no such part: $1" >&2 && exit 2 ;;
    esac
}

[[ $# -gt 0 ]] || set -- starts two-thirds one guidelines short sparser seeds pretrained long third methods bytes test
for name in "$@"; do part "$name"; done
