"""Functions for the ranks to test a mixture of experts that are stacked in one parameter."""

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import MixtralConfig, MixtralForCausalLM

import dsprune
from dsprune.checkpoint.audit import audit_folder
from dsprune.model.prunable import choose_weights, describe_dense
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.testing.engines import STEPS, pruning_engine
from dsprune.testing.whole import whole_masks
from dsprune.zero.parameters import full_tensor
from tests.engine.scenarios import every_view, pruner_of

STOP = 6


def mixtral(seed: int) -> MixtralForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    experts = {"num_key_value_heads": 1, "num_local_experts": 3, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(vocab_size=16, max_position_embeddings=8, **sizes, **experts))


def train(engine: dsprune.PruningEngine, start: int, stop: int) -> None:
    for step in range(start, stop):
        tokens = torch.randint(16, (12, 8), generator=torch.Generator().manual_seed(step))
        share = tokens[dist.get_rank() :: dist.get_world_size()]
        engine.backward(engine(input_ids=share, labels=share).loss)
        engine.step()


def check_experts(
    comm: Comm, config: dict[str, Any], recipe: Recipe, folder: str
) -> tuple[int, list[int], int]:
    """Train, resume and audit a mixture of experts.

    Returns:
        Digest of the masks, the zeros of each tensor, and the number of prunable weights.
    """
    said = io.StringIO()
    with redirect_stderr(said), pruning_engine(config, recipe, 0, mixtral) as engine:
        assert (describe_dense(choose_weights(mixtral(0))) in said.getvalue()) == (dist.get_rank() == 0)
        train(engine, 0, STOP)
        engine.save_checkpoint(folder, tag="stop")
        train(engine, STOP, STEPS)
        expected = every_view(pruner_of(engine))
    with pruning_engine(config, recipe, 1, mixtral) as engine:
        engine.load_checkpoint(folder, tag="stop")
        train(engine, STOP, STEPS)
        state = pruner_of(engine)
        views, masks = every_view(state), whole_masks(state)
        for what, view in views.items():
            assert all(map(torch.equal, view, expected[what])), f"{what}: resuming changed it"
            assert not any(values[~kept].any() for values, kept in zip(view, masks, strict=True)), what
        assert state.audit() == []
        for name, parameter in engine.module.named_parameters():
            if ".gate." in name:
                assert full_tensor(parameter).all(), f"{name} is a router, and has zeros"
        engine.save_checkpoint(folder, tag="end")
        engine.save_model(Path(folder, "model"))
        if dist.get_rank() == 0:
            for saved in ("end", "model"):
                audit = audit_folder(Path(folder, saved))
                assert audit.findings == ()
                assert list(audit.counts) == [int((~kept).sum()) for kept in masks]
            loaded = MixtralForCausalLM.from_pretrained(Path(folder, "model")).state_dict()
            for shard, values in zip(state.layout.shards, views["copy"], strict=True):
                assert torch.equal(loaded[shard.tensor.name].view(-1).double(), values), shard.tensor.name
        dist.barrier()
        digest = state.masks.digest(state.comm)
    return digest, [int((~kept).sum()) for kept in masks], state.num_prunable
