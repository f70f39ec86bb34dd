"""Prune in a DeepSpeed loop of your own.

python examples/own_loop.py OUTPUT
deepspeed --num_gpus 8 --no_local_rank examples/own_loop.py OUTPUT
"""

import sys
from pathlib import Path

import deepspeed

import dsprune
from data import Sentences, tiny_model

HERE = Path(__file__).parent
EPOCHS = 3

engine, _, loader, _ = dsprune.initialize(  # was deepspeed.initialize
    model=tiny_model(),
    config="zero2",  # a ds_config; each "auto" is filled from the recipe
    recipe=str(HERE / "recipe.yaml"),
    training_data=Sentences(),
)
for epoch in range(EPOCHS):
    for batch in loader:
        loss = engine(**{name: value.to(engine.device) for name, value in batch.items()}).loss
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(f"{sys.argv[1]}/checkpoints", tag=epoch)
engine.save_model(f"{sys.argv[1]}/model")
if deepspeed.comm.get_rank() == 0:
    print(f"sparsity {engine.sparsity()['sparsity_prunable']:.4f} after {engine.applied_steps} steps")
