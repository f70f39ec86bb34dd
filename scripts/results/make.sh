#!/usr/bin/env bash
# All runs of docs/results.md, one after the other; finished ones are kept, so it may be cut and started again.
# Some hours on one CPU core. Lay the data out first: see the end of docs/results.md.
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

# teacher NAME [KEY.SUB=VALUE]...: the dense model that a recipe names as its teacher, and its answers
teacher() {
    [[ -f $home/$1-teacher/summary.json ]] ||
        dsprune train "$recipes/$1.yaml" name="$1-teacher" output=$home pruning=null distillation=null "${@:2}"
    dsprune teacher "$recipes/$1.yaml"
}

# guidelines NAME ARGUMENTS...: a part of a study's grid
guidelines() { dsprune suite guidelines "$recipes/$1.yaml" --output "$home/$1" "${@:2}"; }

teacher sentiment budget.steps=null budget.epochs=1.5 budget.batch=32 learning_rate='{peak: 1.0e-4, warmup: 10 %}'
guidelines sentiment "${main[@]}" --methods dense --sparsity 0.9 --sparsity 0.97 --seeds 3
guidelines sentiment "${main[@]}" --sparsity 0.5 --sparsity 0.8 --sparsity 0.95
guidelines sentiment --sparsity 0.9 --methods 'no distillation' --methods 'one decaying learning rate' \
    --methods 'embeddings and head pruned' --methods 'no first jump' --methods 'uniform scope' \
    --methods 'hardness 0.5' --methods 'temperature 1' --methods 'temperature 2' \
    --methods 'short budget, one decaying rate'

teacher banking77 budget.steps=900 learning_rate.peak=2.0e-4
guidelines banking77 "${main[@]}" --methods dense --sparsity 0.5 --sparsity 0.8 --sparsity 0.9 --sparsity 0.97

if [[ ! -f $home/multi30k-pretrained/summary.json ]]; then
    dsprune train $recipes/multi30k-pretrained.yaml output=$home
fi
dsprune suite scripts/results/harness.yaml --output $home/tasks
