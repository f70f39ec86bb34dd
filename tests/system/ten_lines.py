"""A DeepSpeed training loop that prunes: `deepspeed --no_local_rank ten_lines.py RECIPE DS_CONFIG`."""

import sys

import dsprune
from tests.system.blocks import Blocks, examples

engine, optimizer, loader, scheduler = dsprune.initialize(
    model=Blocks(), recipe=sys.argv[1], config=sys.argv[2], training_data=examples()
)
for _ in range(4):  # the recipe's epochs
    for tokens, labels in loader:
        loss = engine(tokens, labels)
        engine.backward(loss)
        engine.step()
# One string with its line end is one write, so the lines of two ranks do not mix.
print(f"sparsity {engine.sparsity()['sparsity_prunable']} step {engine.applied_steps}\n", end="", flush=True)
