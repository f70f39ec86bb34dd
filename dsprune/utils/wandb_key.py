"""Look for a key for the server of Weights & Biases, without its slow client."""

import netrc
import os
from urllib.parse import urlparse

__all__ = ["has_wandb_key", "wandb_host"]


def wandb_host() -> str:
    """Return the name of the server."""
    return urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""


def has_wandb_key() -> bool:
    """Return whether the environment or the netrc file has a key for the server; the key is never shown."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(wandb_host()) is not None
    except (OSError, netrc.NetrcParseError):
        return False
