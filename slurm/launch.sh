# How a batch job starts a dsprune command on all its nodes. Sourced by the batch scripts.
# shellcheck shell=bash
#
# One srun task a node, which is the deepspeed launcher of that node, which starts the ranks: one a GPU, or one a
# node where there are none. The number of nodes is written in one place, the job's --nodes; all else is read from
# the variables that Slurm sets.

# launch COMMAND RECIPE [KEY=VALUE]...: returns its exit code; what the ranks print goes to one file each, in $LOGS
launch() {
    local first status=0
    first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    # An address, since nodes need not resolve the names that Slurm gives them.
    MASTER_ADDR=$(scontrol show node --oneliner "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) # jobs on one node do not collide
    mkdir -p "$LOGS"
    echo "$(date +%T) dsprune $*: $SLURM_NNODES nodes, attempt $ATTEMPT, logs in $LOGS/"
    # A node that failed takes the others along after a minute, in which they say why they ended.
    srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --wait=60 \
        --export=ALL bash "$DSPRUNE_SLURM/node.sh" "$@" || status=$?
    # A launcher that is terminated says 1, though its ranks stopped with a checkpoint.
    if ((status)) && grep -qs ': stopped at step' "$LOGS"/*_rank0.log; then status=75; fi
    find "$LOGS" -name '*_rank0.log' -exec tail -n 3 {} +
    find "$LOGS" -name '*_rank*.log' -exec grep -h '^dsprune: ' {} + | sort -u # of other ranks too
    echo "$(date +%T) dsprune $*: exit code $status"
    return $status
}

# finish STATUS: the job's last command
finish() {
    # Stopped early, with a checkpoint: back into the queue, from where the same command goes on.
    if (($1 == 75)); then scontrol requeue "$SLURM_JOB_ID"; fi
    exit "$1"
}

# When the job's time is up; Slurm says so itself from 23.02 on.
if [[ -z ${SLURM_JOB_END_TIME:-} ]]; then
    end=$(scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n '1s/.* EndTime=\([^ ]*\).*/\1/p')
    if end=$(date --date="${end:-Unknown}" +%s 2>/dev/null); then export SLURM_JOB_END_TIME=$end; fi
fi

ATTEMPT=$((${SLURM_RESTART_COUNT:-0} + 1))
LOGS=logs/$SLURM_JOB_NAME-$SLURM_JOB_ID/attempt-$ATTEMPT
export LOGS DSPRUNE_SLURM
# shellcheck source=slurm/site.sh
source "$DSPRUNE_SLURM/site.sh"
