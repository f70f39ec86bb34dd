"""Why a library refused something, in one line."""

__all__ = ["reason"]


def reason(error: Exception) -> str:
    """The first line of the error's message, or its class where it has none; without a full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
