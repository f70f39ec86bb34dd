#!/usr/bin/env bash
# Make all runs of docs/results-0.1.md, one after the other. Finished runs are kept, so the script can be interrupted and
# started again. It takes some hours on one CPU core. Lay out the data first: see the end of docs/results-0.1.md.
#
#   bash scripts/results/make.sh
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
cd "$ROOT"
setup_env
export HF_HUB_OFFLINE=1

recipes=scripts/results/recipes home=runs/results
main=(--methods 'all guidelines' --methods none --methods 'SMC-Bench schedule, same weights')
one_off=(--methods 'no distillation' --methods 'one decaying learning rate' --methods 'embeddings and head pruned'
    --methods 'no first jump' --methods 'uniform scope')

# dense NAME SUFFIX [KEY.SUB=VALUE]...: fine-tune a dense model, the teacher
dense() {
    [[ -f $home/$1-$2/summary.json ]] ||
        dsprune train "$recipes/$1.yaml" name="$1-$2" output=$home model.path=data/minilm \
            pruning=null distillation=null "${@:3}"
}

# guidelines NAME ARGUMENTS...: run a part of a study's grid
guidelines() { dsprune suite guidelines "$recipes/$1.yaml" --output "$home/$1" "${@:2}"; }

dense sentiment teacher budget='{epochs: 1.5, batch: 32}' learning_rate.peak=1.0e-4
guidelines sentiment "${main[@]}" --methods dense --sparsity 0.9
guidelines sentiment "${main[@]}" --sparsity 0.97
guidelines sentiment "${main[@]}" --sparsity 0.9 --seeds 3
guidelines sentiment --sparsity 0.9 "${one_off[@]}" --methods 'hardness 0.5' --methods 'temperature 1' \
    --methods 'temperature 2' --methods 'temperature calibrated' --methods 'short budget, one decaying rate'
guidelines sentiment --sparsity 0.9 --seeds 2 --methods 'one decaying learning rate'
guidelines sentiment --methods 'all guidelines' --methods none --sparsity 0.5 --sparsity 0.8 --sparsity 0.95
dsprune analyze $recipes/sentiment.yaml model.path=$home/sentiment-teacher/model --sparsity 0.5 --sparsity 0.8 \
    --no-layers --output $home/components

dense banking77 teacher budget.steps=900
guidelines banking77 "${main[@]}" --methods dense --sparsity 0.9
guidelines banking77 "${main[@]}" --sparsity 0.97
guidelines banking77 --methods 'all guidelines' --methods none --sparsity 0.5 --sparsity 0.8 --sparsity 0.95
guidelines banking77 --sparsity 0.9 "${one_off[@]}"
dsprune suite guidelines $recipes/banking77.yaml model.path=data/minilm --output $home/banking77-pretrained \
    "${main[@]}" --methods dense --sparsity 0.9

if [[ ! -f $home/multi30k-dense/summary.json ]]; then
    dsprune train $recipes/multi30k-dense.yaml output=$home
fi
dense xquad dense budget.steps=600 learning_rate.peak=1.5e-4
dense commonsense-qa dense budget.steps=1000 learning_rate.peak=1.0e-4
for task in mawps asdiv-a svamp; do # the decoder is new: its learning rate is ten times that of the encoder
    dense $task dense budget.steps=800 learning_rate='{peak: 1.0e-3, warmup: 10 %, scale: {"encoder.*": 0.1}}'
done
dsprune suite scripts/results/harness.yaml --output $home/tasks
dsprune suite scripts/results/harness.yaml --output $home/tasks --sparsity 0.8 --seeds 3 \
    --methods 'all guidelines' --methods 'SMC-Bench schedule, same weights'
