#!/usr/bin/env bash
# Start the ranks of one node with the deepspeed launcher. srun runs this script once on every node.
set -euo pipefail
# shellcheck source=slurm/site.sh
source "$DSPRUNE_SLURM/site.sh"

# world_info GPUS: print {"node1": [0, 1], "node2": [0, 1]}, the nodes and the GPUs of each, encoded for the launcher
world_info() {
    local gpus nodes
    gpus=$(seq --separator=, 0 $(($1 - 1)))
    nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&\": [$gpus]/" | paste -sd,)
    printf '{%s}' "$nodes" | base64 --wrap=0 | tr '+/' '-_'
}

ranks=${SLURM_GPUS_PER_NODE:-0} # 8, or a100:8 with a type
ranks=${ranks##*:}
if ((ranks == 0)); then ranks=1; fi
# The ranks of a node share its cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((SLURM_CPUS_PER_TASK > ranks ? SLURM_CPUS_PER_TASK / ranks : 1))}

# Slurm's signal is for the ranks, which write a checkpoint, but would end the launcher. A program inherits ignored
# signals: the launcher keeps ignoring this one, and the ranks handle it.
trap '' USR1
exec "${CONTAINER[@]}" python -u -m deepspeed.launcher.launch --world_info="$(world_info "$ranks")" \
    --node_rank="$SLURM_NODEID" --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" \
    --enable_each_rank_log="$LOGS" --log_level=warning --module dsprune "$@"
