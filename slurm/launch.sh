# Start a dsprune command on all nodes of a batch job. Sourced by the batch scripts.
# shellcheck shell=bash
#
# srun starts the deepspeed launcher once per node, which starts the ranks of its node: one per GPU, or one without
# GPUs. The number of nodes is the job's --nodes; everything else comes from variables that Slurm sets.

# launch COMMAND RECIPE [KEY=VALUE]...: return its exit code; the output of each rank goes to a separate file in $LOGS
launch() {
    local first status=0
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    # An address, because nodes may not resolve Slurm's node names.
    MASTER_ADDR=$(scontrol show node --oneliner "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    # A port of its own for each job, below 32768, where the system's ports for connections start.
    export MASTER_ADDR MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000))
    mkdir -p "$LOGS"
    echo "$(date +%T) dsprune $*: $SLURM_NNODES nodes, attempt $ATTEMPT, logs in $LOGS/"
    # --wait: if one node fails, the others end a minute later, and can write the reason until then.
    srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --wait=60 \
        --export=ALL bash "$DSPRUNE_SLURM/node.sh" "$@" || status=$?
    # A terminated launcher exits with 1, even if its ranks stopped with a checkpoint.
    if ((status)) && grep -qs ': stopped at step' "$LOGS"/*_rank0.log; then status=75; fi
    find "$LOGS" -name '*_rank0.log' -exec tail -n 3 {} +
    find "$LOGS" -name '*_rank*.log' -exec grep -h '^dsprune: ' {} + | sort -u # also of other ranks
    echo "$(date +%T) dsprune $*: exit code $status"
    return $status
}

# finish STATUS: end the job with this exit code
finish() {
    # Stopped early with a checkpoint: requeue the job, whose command then resumes.
    if (($1 == 75)); then scontrol requeue "$SLURM_JOB_ID"; fi
    exit "$1"
}

# The time at which Slurm ends the job; Slurm sets it from version 23.02 on.
if [[ -z ${SLURM_JOB_END_TIME:-} ]]; then
    end=$(scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n '1s/.* EndTime=\([^ ]*\).*/\1/p')
    if end=$(date --date="${end:-Unknown}" +%s 2>/dev/null); then export SLURM_JOB_END_TIME=$end; fi
fi

ATTEMPT=$((${SLURM_RESTART_COUNT:-0} + 1))
LOGS=logs/$SLURM_JOB_NAME-$SLURM_JOB_ID/attempt-$ATTEMPT
export LOGS DSPRUNE_SLURM
# shellcheck source=slurm/site.sh
source "$DSPRUNE_SLURM/site.sh"
