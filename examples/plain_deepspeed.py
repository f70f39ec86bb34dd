"""A script that knows nothing of dsprune; `dsprune run` prunes what it trains.

dsprune run --recipe examples/recipe.yaml --steps-per-epoch 4 examples/plain_deepspeed.py OUTPUT
"""

import argparse

import deepspeed

from data import Sentences, tiny_model

parser = argparse.ArgumentParser()
parser.add_argument("output")
parser.add_argument("--local_rank", type=int, default=-1)
arguments = parser.parse_args()

model = tiny_model()
config = {
    "train_batch_size": 16,
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 2},
}
engine, _, loader, _ = deepspeed.initialize(
    args=arguments, model=model, model_parameters=model.parameters(), training_data=Sentences(), config=config
)
for _ in range(3):
    for batch in loader:
        loss = engine(**{name: value.to(engine.device) for name, value in batch.items()}).loss
        engine.backward(loss)
        engine.step()
engine.save_checkpoint(f"{arguments.output}/checkpoints")
