"""Prune a tiny model on this machine's accelerator in one process, and print the results for a test as JSON.

Arguments: the ZeRO stage, the precision, and further settings as JSON: sections `pruning` and `config`, and `compile`.
Needs the environment of a launcher: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

import itertools
import json
import sys
from typing import Any

import torch
from torch import Tensor, nn

import dsprune
from dsprune.checkpoint.pruning_state import PruningState
from dsprune.kernels.product import Product
from dsprune.masks.bits import pack
from dsprune.ranks.collectives import Comm
from dsprune.selection import select
from dsprune.selection.groups import make_groups
from dsprune.selection.scan import Scorer
from dsprune.testing.engines import BATCH, STEPS, ds_config, make_recipe
from dsprune.testing.tiny import TinyModel, batch

WIDTH = 64
"""Sizes of a model whose matrices torch's sparse kernels accept."""


def train(
    stage: int, precision: str, pruning: dict[str, Any], config: dict[str, Any], compiles: bool, width: int
) -> tuple[nn.Module, PruningState]:
    """Train through all mask updates, and return the model, and the masks with their weights."""
    recipe = make_recipe(precision, **{"method": "fisher"} | pruning)
    model = TinyModel(width=width)
    engine, *_ = dsprune.initialize(model=model, config=ds_config(stage, precision, **config), recipe=recipe)
    if compiles:
        engine.compile()
    for number in itertools.count():
        if engine.applied_steps == STEPS:  # fp16 skips steps that overflow
            break
        tensors = {name: value.to(engine.device) for name, value in batch(number, BATCH, 0, 1).items()}
        engine.backward(engine(**tensors).loss)
        engine.step()
    return model, engine.pruner.state


def select_on(state: PruningState, device: torch.device, scope: str) -> list[Tensor]:
    """Select from the trained weights and moments, on some device, and return the masks on the CPU.

    All weights take part: the scores of those that are pruned already are equal.
    """
    layout = state.layout
    moments = [layout.states(index)["exp_avg_sq"] for index in range(len(layout.shards))]
    products = [
        Product(layout.weight(index).to(device), moment.to(device)) for index, moment in enumerate(moments)
    ]
    scorers = [
        Scorer(lambda part, product=product: product[part].values(), True, product) for product in products
    ]
    groups = make_groups([shard.tensor for shard in layout.shards], [0.95] * len(products), scope)
    kept = [pack(torch.ones(shard.numel, dtype=torch.bool)).to(device) for shard in layout.shards]
    return [bits.cpu() for bits in select(layout.shards, scorers, kept, groups, Comm())]


def is_same(state: PruningState) -> list[bool]:
    """Return whether the device and the CPU select the same weights, by scope."""
    device = state.layout.master_device
    return [
        all(map(torch.equal, select_on(state, device, scope), select_on(state, torch.device("cpu"), scope)))
        for scope in ("global", "uniform")
    ]


def fits_sparse_kernels(model: nn.Module) -> bool:
    """Return whether torch's sparse kernels compute the same product of every pruned matrix as the dense ones."""
    for block in model.blocks:
        weight = block.up.weight.detach().half()
        sparse = torch.sparse.to_sparse_semi_structured(weight[: weight.shape[0] // 32 * 32].contiguous())
        inputs = torch.randn(WIDTH, WIDTH, device=weight.device, dtype=torch.half)
        dense = sparse.to_dense()
        if not torch.equal(dense, weight[: len(dense)]) or not torch.allclose(
            torch.mm(sparse, inputs), torch.mm(dense, inputs), rtol=1e-2, atol=1e-2
        ):
            return False
    return True


def main(stage: int, precision: str, extra: dict[str, Any]) -> None:
    """Train, compare and print."""
    pruning, width = extra.get("pruning", {}), WIDTH if "pattern" in extra.get("pruning", {}) else 7
    model, state = train(
        stage, precision, pruning, extra.get("config", {}), extra.get("compile", False), width
    )
    found = {
        "device": state.layout.master_device.type,
        "findings": list(map(str, state.audit())),
        "pruned": state.num_pruned,
        "prunable": state.num_prunable,
    }
    if not pruning:
        found["same"] = is_same(state)
    if "pattern" in pruning:
        found["fits"] = fits_sparse_kernels(model)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
