"""What every test starts from: no network, and no compiler that nothing here uses."""

import os

# Read when huggingface_hub is imported, so before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
# DeepSpeed imports an optimizer whose decorator imports torch's whole compiler: a tenth of a rank's start.
os.environ["TORCHDYNAMO_DISABLE"] = "1"
