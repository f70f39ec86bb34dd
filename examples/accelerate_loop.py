"""Prune in an Accelerate loop: call `prepare` inside `dsprune.pruning`.

python examples/accelerate_loop.py OUTPUT
accelerate launch --use_deepspeed --num_processes 8 examples/accelerate_loop.py OUTPUT
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DeepSpeedPlugin, PartialState
from torch.utils.data import DataLoader

import dsprune
from data import Sentences, tiny_model

output = Path(sys.argv[1])
PartialState(cpu=not torch.cuda.is_available())  # on CPUs, Accelerate would count one process
plugin = DeepSpeedPlugin(zero_stage=2, gradient_accumulation_steps=2, gradient_clipping=1.0)
accelerator = Accelerator(deepspeed_plugin=plugin, gradient_accumulation_steps=2)
model = tiny_model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)  # the recipe's peak
loader = DataLoader(Sentences(), batch_size=8 // accelerator.num_processes)

with dsprune.pruning(str(Path(__file__).with_name("recipe.yaml"))):
    engine, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    first = 0
    if "--resume" in sys.argv:
        accelerator.load_state(str(output / "state"))
        first = 1
    for epoch in range(first, 3):
        for batch in loader:
            with accelerator.accumulate(engine):
                accelerator.backward(engine(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
        if epoch == 0:
            accelerator.save_state(str(output / "state"))
    engine.save_model(output / "model")  # with its masks
if accelerator.is_main_process:
    print(f"sparsity {engine.sparsity()['sparsity_prunable']:.4f} after {engine.applied_steps} steps")
