#!/usr/bin/env bash
# Make the runs of docs/recovery.md. Finished runs are kept, so the script can be interrupted and started again.
# Lay out data/minilm and data/benchmarks/banking77 first: see the end of docs/results.md.
#
#   bash scripts/results/recovery/make.sh
set -euo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
home=runs/recovery
export HF_HUB_OFFLINE=1

[[ -f $home/banking77-dense/summary.json ]] ||
    dsprune train "$here/banking77.yaml" name=banking77-dense output=$home model.path=data/minilm model.dropout=null \
        pruning=null distillation=null budget.steps=900 'learning_rate={peak: 3.0e-4, warmup: 10 %}'
suite() { dsprune suite "$here/suite.yaml" "$here/banking77.yaml" "$@"; }
for sparsity in 0.9 0.97; do
    suite --output $home/200 --sparsity $sparsity --methods defaults --methods magnitude --methods 'SMC-Bench schedule'
done
