#!/usr/bin/env bash
# From a fresh clone to a 90 % sparse sentiment classifier, with two ranks and ZeRO-2, on CPU or GPU:
# a dense model, its logits for every training sentence, the temperature of distillation, and the sparse model.
# A second sparse model is trained on the labels alone, for comparison.
#
#   bash scripts/demo.sh [KEY.SUB=VALUE]...      recipe values for all trainings, such as budget.epochs=4
#
# Finished phases are kept when it is run again. Remove runs/ to start over.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

# All models and data are local now: do not use the hub.
export HF_HUB_OFFLINE=1

# launch COMMAND...: run a dsprune command on all ranks
launch() { deepspeed --quiet --num_accelerators "$(num_ranks)" --master_port "$(free_port)" --module dsprune "$@"; }

# train NAME RECIPE [KEY.SUB=VALUE]...
train() {
    local name=$1
    if [[ -f runs/$name/summary.json ]]; then
        say "$name: already trained (to train it again: rm -r runs/$name)"
    else
        say "$name: training on $(num_ranks) ranks"
        launch train "${@:2}" name="$name" output=runs
    fi
}

# evaluate NAME: evaluate the saved model
evaluate() {
    local result=runs/$1/eval.json
    if [[ ! -f $result ]]; then
        dsprune eval "runs/$1/model" --task text-classification validation=data/sentiment/validation.csv \
            text=sentence label=label max_length=64 | tail -n 1 >"$result.part"  # DeepSpeed prints above it
        mv "$result.part" "$result"
    fi
}

setup_env
python scripts/fetch_demo_data.py
mkdir -p runs
train sentiment-dense sentiment-dense "$@"

recipe=runs/sentiment-90.yaml
if [[ ! -f $recipe ]]; then
    say "the teacher: storing the dense model's logits for every training sentence"
    launch teacher sentiment-90 "$@"
    cp dsprune/recipes/sentiment-90.yaml "$recipe.part"
    dsprune calibrate runs/sentiment-teacher --recipe "$recipe.part" --write "$recipe.part" \
        --plot runs/sentiment-teacher.svg "$@"
    mv "$recipe.part" "$recipe"
fi

say "sentiment-90: the timetable"
dsprune plan "$recipe" --world-size "$(num_ranks)" --stage 2 "$@"
train sentiment-90 "$recipe" "$@"
train sentiment-90-labels-only "$recipe" distillation=null "$@"

say "the audit"
dsprune audit runs/sentiment-90
say "evaluating the saved models"
evaluations=()
for name in sentiment-dense sentiment-90 sentiment-90-labels-only; do
    evaluate "$name" & evaluations+=($!)
done
for evaluation in "${evaluations[@]}"; do wait "$evaluation"; done
python scripts/demo_table.py runs/sentiment-dense runs/sentiment-90 runs/sentiment-90-labels-only
say "done: the sparse model is in runs/sentiment-90/model"
