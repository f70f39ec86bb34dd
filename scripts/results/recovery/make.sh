#!/usr/bin/env bash
# Make the runs of docs/results.md, the most important ones first, then evaluate all models on the test data. Finished
# runs are kept, so the script can be interrupted and started again. An epoch of a run takes about four minutes on one
# CPU core.
# On a GPU: SETTINGS='precision=fp32 deepspeed=zero0' NVIDIA_TF32_OVERRIDE=1, and several parts at once.
# Lay out data/minilm, data/sentiment and the data below data/benchmarks first: see the ends of docs/results.md and
# docs/results-0.1.md.
#
#   bash scripts/results/recovery/make.sh [PART]...      parts: those of the case below
#   SETTINGS='KEY=VALUE ...'                             more recipe values, for all runs
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=scripts/env.sh
source "$here/../../env.sh"
home=runs/recovery
export HF_HUB_OFFLINE=1
read -ra settings <<<"${SETTINGS:-}"

# start TASK [KEY.SUB=VALUE]...: fine-tune a dense model, the start and the teacher of the runs
start() {
    [[ -f $home/starts/$1/summary.json ]] ||
        dsprune train "$here/$1.yaml" name="$1" output=$home/starts model.path=data/minilm model.dropout=null \
            pruning=null distillation=null learning_rate.warmup='10 %' "${settings[@]}" "${@:2}"
}

# cells TASK START EPOCHS METHODS ARGUMENTS...: run methods, separated by commas, at one or more sparsities
cells() {
    local model=() methods=() names
    [[ $2 = fine-tuned ]] || model=(model.path=data/minilm model.start=pretrained)
    IFS=, read -ra names <<<"$4"
    for name in "${names[@]}"; do methods+=(--methods "$name"); done
    dsprune suite "$here/suite.yaml" "$here/$1.yaml" "${model[@]}" budget.epochs="$3" "${settings[@]}" \
        --output "$home/$1/$2-$3" "${methods[@]}" "${@:5}"
}

# each, all START EPOCHS METHODS ARGUMENTS...: the same for the first two tasks, and for all three
each() { for task in banking77 movie-reviews; do cells "$task" "$@"; done; }
all() {
    each "$@"
    cells mawps "$@"
}

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
        one)
            each fine-tuned 1 'defaults,dense,one decay,rewinds,magnitude,SMC-Bench schedule,labels alone,no first jump' --seeds 3
            cells banking77 fine-tuned 1 'dense rate' learning_rate.peak=3.0e-4 --seeds 3
            cells movie-reviews fine-tuned 1 'dense rate' learning_rate.peak=1.0e-4 --seeds 3
            ;;
        guidelines) cells banking77 fine-tuned 1 'none,embeddings and head pruned' ;;
        three) all fine-tuned 3 dense,defaults --sparsity 0.5 --sparsity 0.8 --sparsity 0.9 --sparsity 0.97 --seeds 3 ;;
        ten) all fine-tuned 10 dense,defaults --sparsity 0.8 --sparsity 0.9 --sparsity 0.97 --seeds 2 ;;
        short)
            cells banking77 fine-tuned 0.3 'defaults,rewinds,one decay' --sparsity 0.97 --seeds 3
            cells banking77 fine-tuned 0.3 'defaults,rewinds,one decay' --sparsity 0.9 --seeds 2
            ;;
        pretrained)
            each pretrained 1 'defaults,dense phase at the dense rate,temperature 2,labels alone,one decay,magnitude,SMC-Bench schedule,dense' --seeds 3
            each pretrained 3 'defaults,temperature 2,labels alone,magnitude,dense' --sparsity 0.8 --sparsity 0.9 --sparsity 0.97 --seeds 3
            ;;
        longer) each fine-tuned 3 'magnitude,SMC-Bench schedule' --sparsity 0.8 --sparsity 0.9 --sparsity 0.97 --seeds 3 ;;
        held-out) # tasks on which no default was chosen
            for task in clinc150 trec; do
                start "$task" budget.epochs=3 model.start=null
                cells "$task" fine-tuned 1 'defaults,high rate,magnitude,dense' --seeds 2
                cells "$task" pretrained 3 'defaults,high rate,magnitude,dense' --seeds 2
            done
            start xquad budget.epochs=4 model.start=null
            cells xquad fine-tuned 3 'defaults,magnitude,SMC-Bench schedule,dense'
            ;;
        bytes) # the model of docs/compact.md: the demo's, with the used vocabulary
            dsprune train sentiment-90 model.vocabulary=used distillation.hardness=1.0 name=sentiment-90-used output=$home/demo
            ;;
        test) python "$here/test_models.py" "$home" ;;
        *) echo "no such part: $1" >&2 && exit 2 ;;
    esac
}

[[ $# -gt 0 ]] || set -- starts one guidelines three ten short two-thirds longer pretrained held-out bytes test
for name in "$@"; do part "$name"; done
