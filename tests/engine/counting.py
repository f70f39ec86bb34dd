"""Functions for the ranks to test the counted inputs of decoders, against the same model in one process."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

import dsprune
from dsprune.ranks.collectives import Comm
from dsprune.recipe import Recipe
from dsprune.testing.engines import BATCH, pruning_engine
from dsprune.testing.whole import whole_masks
from dsprune.zero.parameters import full_tensor
from tests.engine.scenarios import pruner_of


def gpt2(seed: int) -> GPT2LMHeadModel:
    """A GPT-2, whose matrices have inputs before outputs."""
    torch.manual_seed(seed)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    tokens = {"vocab_size": 16, "bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, **tokens))


def llama(seed: int, *, reentrant: bool) -> LlamaForCausalLM:
    """A Llama of two layers, whose activations are recomputed in the backward pass.

    Args:
        seed: seed of the weights.
        reentrant: the kind of activation checkpointing. With the other kind the layers share their feed-forward part;
            with this one, DeepSpeed fails on weights that are used twice.
    """
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=16, max_position_embeddings=8, num_key_value_heads=1, **sizes)
    )
    first, second = model.model.layers
    if not reentrant:
        second.mlp = first.mlp
        model._tied_weights_keys = {r"layers\.1\.mlp": r"layers\.0\.mlp"}
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return model


MODELS: Mapping[str, Callable[[int], nn.Module]] = {
    "gpt2": gpt2,
    "llama": partial(llama, reentrant=True),
    "llama with tied layers": partial(llama, reentrant=False),
}


def examples(step: int) -> dict[str, Tensor]:
    """The global batch of a step, in which a third of the texts are shorter."""
    tokens = torch.randint(16, (BATCH, 8), generator=torch.Generator().manual_seed(step))
    mask = torch.ones_like(tokens)
    mask[::3, 5:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def squares(model: nn.Module, texts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The squares of the inputs of each matrix, in one pass of a single model over the global batch."""
    found: dict[str, Tensor] = {}

    def add(name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        tokens = args[0].detach()[texts["attention_mask"].bool()]
        found[name] = found.get(name, torch.zeros(())) + tokens.double().square().sum(0)

    hooks = [
        module.register_forward_pre_hook(partial(add, f"{name}.weight"))
        for name, module in model.eval().named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    with torch.no_grad():
        model(**texts)
    for hook in hooks:
        hook.remove()
    return found


def step_with_evaluations(engine: dsprune.PruningEngine, texts: dict[str, Tensor]) -> None:
    """Take one optimizer step, with passes before each micro-batch that must not count."""
    share = {name: value[dist.get_rank() :: dist.get_world_size()] for name, value in texts.items()}
    accumulation = engine.gradient_accumulation_steps()
    for part in range(accumulation):
        with torch.no_grad():
            engine(**share)
            engine.eval()
            engine(**share)
            engine.train()
        batch = {name: value[part::accumulation] for name, value in share.items()}
        engine.backward(engine(**batch, labels=batch["input_ids"]).loss)
        engine.step()


def lowest_of_rows(scores: Tensor, fraction: float) -> Tensor:
    """The mask without the lowest scores of each row, by a sort."""
    ranks = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return ranks >= round(fraction * scores.shape[1])


def check_inputs(comm: Comm, config: dict[str, Any], recipe: Recipe, name: str) -> None:
    """Compare the sums after step 0 and the masks of one mask update at step 1 with those of the single model."""
    build = MODELS[name]
    with pruning_engine(config, recipe, 0, build) as engine:
        state, alone, expected = pruner_of(engine), build(0), {}
        tensors = [shard.tensor for shard in state.layout.shards]
        for step in range(2):
            alone.load_state_dict(
                {
                    name: full_tensor(weight).detach().clone()
                    for name, weight in engine.module.named_parameters(remove_duplicate=False)
                }
            )
            added = squares(alone, examples(step))
            expected = {name: added[name] + expected.get(name, 0) for name in added}
            step_with_evaluations(engine, examples(step))
            if step == 0:
                for tensor, found in zip(tensors, state.accumulators.inputs.values, strict=True):
                    torch.testing.assert_close(found, expected[tensor.name], rtol=1e-5, atol=0)
        for tensor, mask in zip(tensors, whole_masks(state), strict=True):
            weight = alone.get_parameter(tensor.name).detach()
            rows = weight.mT if tensor.inputs_first else weight
            kept = lowest_of_rows(rows.abs() * expected[tensor.name].sqrt(), state.pruning.sparsity)
            assert torch.equal(mask.view(weight.shape), kept.mT if tensor.inputs_first else kept), tensor.name
        assert state.audit() == []
