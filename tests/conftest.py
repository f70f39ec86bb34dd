"""What every test starts from: no network."""

import os

# Read when huggingface_hub is imported, so before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
