"""Exit on a signal, at once, as long as there is nothing to save."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from types import FrameType

__all__ = ["GRACE", "exit_on_signals", "stop_exiting_on_signals"]

GRACE = 2.0
"""Seconds in which a process may unwind."""

_codes: dict[int, int] = {}
"""The exit code of each signal that ends this process now."""

_wakened: socket.socket | None = None


def exit_on_signals(signals: Iterable[signal.Signals], code: int) -> None:
    """End this process with `code` when one of the signals comes, until `stop_exiting_on_signals`.

    Python runs a handler between two of its instructions, so not while a library waits for another rank, which
    may never come. A thread ends a process that has not unwound after `GRACE`.
    """
    global _wakened
    if _wakened is None:
        _wakened, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(_wakened,), name="exit-on-signals", daemon=True).start()
    for number in signals:
        _codes[number] = code
        signal.signal(number, _unwind)


def stop_exiting_on_signals() -> None:
    """Leave the signals to other handlers: from here on there is something to save."""
    _codes.clear()


def _unwind(number: int, frame: FrameType | None) -> None:
    if number in _codes:
        sys.exit(_codes[number])


def _watch(wakened: socket.socket) -> None:
    while number := wakened.recv(1):
        if number[0] in _codes:
            time.sleep(GRACE)
            if number[0] in _codes:
                os._exit(_codes[number[0]])
