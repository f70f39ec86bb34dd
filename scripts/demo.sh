#!/usr/bin/env bash
# From a fresh clone to a 90 % sparse sentiment classifier, with two ranks and ZeRO-2, on CPU or GPU.
#
#   bash scripts/demo.sh [KEY.SUB=VALUE]...      recipe values for both trainings, such as budget.epochs=1
#
# Finished phases are kept: run it again at any time. Remove runs/NAME to do a training again.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

# All models and data are local from here on: the hub is never asked.
export HF_HUB_OFFLINE=1

# train RECIPE [KEY.SUB=VALUE]...
train() {
    local name=$1 ranks
    if [[ -f runs/$name/summary.json ]]; then
        say "$name: trained already (again: rm -r runs/$name)"
        return
    fi
    ranks=$(num_ranks)
    say "$name: training on $ranks ranks"
    deepspeed --num_accelerators "$ranks" --master_port "$(free_port)" --module dsprune train "$@" output=runs
    say "$name: trained"
}

# evaluate NAME: the saved model, read back from its folder
evaluate() {
    local name=$1 result=runs/$1/eval.json
    if [[ ! -f $result ]]; then
        dsprune eval "runs/$name/model" --task text-classification validation=data/sentiment/validation.csv \
            text=sentence label=label max_length=64 | tail -n 1 >"$result.part"  # DeepSpeed prints above it
        mv "$result.part" "$result"
    fi
    say "$name: $(<"$result")"
}

setup_env
python scripts/fetch_demo_data.py

train sentiment-dense "$@"
say "sentiment-90: the timetable"
dsprune plan sentiment-90 model.path=runs/sentiment-dense/model "$@"
train sentiment-90 model.path=runs/sentiment-dense/model "$@"

say "sentiment-90: the audit"
dsprune audit runs/sentiment-90
say "evaluating the saved models"
evaluate sentiment-dense
evaluate sentiment-90

python scripts/demo_table.py runs/sentiment-dense runs/sentiment-90
say "done: the sparse model is in runs/sentiment-90/model"
