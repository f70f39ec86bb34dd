#!/usr/bin/env bash
# Submit a dense teacher, its logits store, and a sparse student for each sparsity; jobs wait for each other.
#
#   bash slurm/pipeline.sh [--SBATCH_OPTION=VALUE]... DENSE RECIPE [KEY=VALUE]...
#
# DENSE is the recipe of the teacher, RECIPE that of the students, whose distillation.teacher is the teacher's model
# (runs/DENSE/model) and whose distillation.store is a folder. Options apply to all jobs, values to RECIPE.
#
#   bash slurm/pipeline.sh --nodes=2 --partition=gpu sst2-dense.yaml sst2-sparse.yaml
set -euo pipefail
export DSPRUNE_SLURM
DSPRUNE_SLURM=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# EDIT: the sparsities, in thousandths
SPARSITIES=500,800,900,950,970

options=()
while [[ ${1:-} == --* ]]; do options+=("$1"); shift; done
if (($# < 2)); then
    echo "usage: bash $0 [--SBATCH_OPTION=VALUE]... DENSE RECIPE [KEY=VALUE]..." >&2
    exit 2
fi
dense=$1
shift

# submit SBATCH_OPTION... SCRIPT RECIPE [KEY=VALUE]...: print the number of the job
submit() { sbatch --parsable --kill-on-invalid-dep=yes "${options[@]}" "$@" | cut -d';' -f1; }

teacher=$(submit --job-name=dense "$DSPRUNE_SLURM/train.sbatch" "$dense")
store=$(submit --job-name=store --dependency="afterok:$teacher" "$DSPRUNE_SLURM/teacher.sbatch" "$@")
students=$(submit --job-name=students --dependency="afterok:$store" --array="$SPARSITIES" "$DSPRUNE_SLURM/train.sbatch" "$@")
printf '%-10s %s\n' teacher "$teacher" store "$store" students "$students"
