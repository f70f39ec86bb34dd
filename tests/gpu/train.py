"""Prune a tiny model on this machine's accelerator in one process, and print as JSON what a test compares.

Needs the environment of a launcher: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

import json
import sys

import torch
from torch import Tensor

import dsprune
from dsprune.checkpoint.pruning_state import PruningState
from dsprune.kernels.product import Product
from dsprune.ranks.collectives import Comm
from dsprune.selection import select
from dsprune.selection.groups import make_groups
from dsprune.selection.scan import Scorer
from dsprune.testing.engines import BATCH, STEPS, ds_config, make_recipe
from dsprune.testing.tiny import TinyModel, batch


def train(stage: int, precision: str) -> PruningState:
    """Train through all mask updates, and return the masks with their weights."""
    recipe = make_recipe(precision, method="fisher")
    engine, *_ = dsprune.initialize(model=TinyModel(), config=ds_config(stage, precision), recipe=recipe)
    for step in range(STEPS):
        tensors = {name: value.to(engine.device) for name, value in batch(step, BATCH, 0, 1).items()}
        engine.backward(engine(**tensors).loss)
        engine.step()
    assert engine.pruner is not None
    return engine.pruner.state


def select_on(state: PruningState, device: torch.device, scope: str) -> list[Tensor]:
    """Select again from the same weights and moments, on some device, and return the masks on the CPU."""
    layout = state.layout
    moments = [layout.states(index)["exp_avg_sq"] for index in range(len(layout.shards))]
    products = [
        Product(layout.weight(index).to(device), moment.to(device)) for index, moment in enumerate(moments)
    ]
    scorers = [
        Scorer(lambda part, product=product: product[part].values(), True, product) for product in products
    ]
    groups = make_groups([shard.tensor for shard in layout.shards], [0.95] * len(products), scope)
    kept = [bits.to(device) for bits in state.masks.bits]
    return [bits.cpu() for bits in select(layout.shards, scorers, kept, groups, Comm())]


def main(stage: int, precision: str) -> None:
    """Train, compare and print."""
    state = train(stage, precision)
    device = state.layout.master_device
    same = [
        all(map(torch.equal, select_on(state, device, scope), select_on(state, torch.device("cpu"), scope)))
        for scope in ("global", "uniform")
    ]
    found = {"device": device.type, "findings": list(map(str, state.audit())), "same": same}
    print("\n" + json.dumps(found | {"pruned": state.num_pruned, "prunable": state.num_prunable}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
