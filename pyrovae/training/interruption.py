"""Ctrl-C as a question: work ends where nothing is lost by it, and at once when it is asked again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pyrovae.training.training import Training


class Interruption:
    """Whether Ctrl-C was pressed while `heard`; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen inside; not in another thread, nor where somebody else listens."""
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        ):
            yield
            return

        def ask(number: int, frame: object) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def in_words(training: Training, *, resumable: bool) -> str:
    """Where a training was interrupted, and what is left of it."""
    left = " The same call with resume=True goes on." if resumable else ""
    return (
        f"training was interrupted (Ctrl-C) after epoch {training.epoch} of {training.settings.epochs}, at step "
        f"{training.step}: the VAE has the weights of then, and history.attrs['interrupted'] says so.{left}"
    )
