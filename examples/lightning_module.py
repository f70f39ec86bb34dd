"""Prune with Lightning's DeepSpeedStrategy: call `fit` inside `dsprune.pruning`.

python examples/lightning_module.py OUTPUT
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from torch.utils.data import DataLoader

import dsprune
from data import Sentences, tiny_model


class Classifier(pl.LightningModule):
    """A Lightning module that knows nothing of dsprune."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_model(dropout=0.0)  # Lightning restores no random state, so dropout would differ

    def training_step(self, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
        return self.model(**batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)  # the recipe's peak


class Strategy(DeepSpeedStrategy):
    """Lightning's own, without its checks for a GPU; with one, use `DeepSpeedStrategy` itself."""

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()


output = sys.argv[1]
resume = next(Path(output).glob("states/epoch=0*")) if "--resume" in sys.argv else None
with dsprune.pruning(Path(__file__).with_name("recipe.yaml")) as engines:
    trainer = pl.Trainer(
        strategy=Strategy(stage=2),
        accelerator="auto",
        devices=1,
        max_epochs=3,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        default_root_dir=output,
        logger=False,
        callbacks=[ModelCheckpoint(f"{output}/states", save_top_k=-1)],  # one an epoch
    )
    trainer.fit(Classifier(), DataLoader(Sentences(), batch_size=8), ckpt_path=resume)
    engines[0].save_model(f"{output}/model")
print(f"sparsity {engines[0].sparsity()['sparsity_prunable']:.4f} after {engines[0].applied_steps} steps")
