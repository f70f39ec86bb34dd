"""The dtypes that recipes, options and stores name."""

import torch

__all__ = ["DTYPES"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
