#!/usr/bin/env bash
# What srun starts once on every node: the deepspeed launcher, which starts this node's ranks.
set -euo pipefail
# shellcheck source=slurm/site.sh
source "$DSPRUNE_SLURM/site.sh"

# {"node1": [0, 1], "node2": [0, 1]} as the launcher wants it: the nodes, and the GPUs of each
world_info() {
    local gpus nodes
    gpus=$(seq --separator=, 0 $(($1 - 1)))
    nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&\": [$gpus]/" | paste -sd,)
    printf '{%s}' "$nodes" | base64 --wrap=0 | tr '+/' '-_'
}

ranks=${SLURM_GPUS_PER_NODE:-0} # 8, or with a type, a100:8
ranks=${ranks##*:}
if ((ranks == 0)); then ranks=1; fi
# The cores of the node are shared out among its ranks.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((SLURM_CPUS_PER_TASK > ranks ? SLURM_CPUS_PER_TASK / ranks : 1))}

# Slurm's signal is for the ranks, which write a checkpoint. The launcher between would die of it; what is ignored
# stays ignored in a program that is started, until it says otherwise, as the ranks do.
trap '' USR1
exec "${CONTAINER[@]}" python -u -m deepspeed.launcher.launch --world_info="$(world_info "$ranks")" \
    --node_rank="$SLURM_NODEID" --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" \
    --enable_each_rank_log="$LOGS" --log_level=warning --module dsprune "$@"
