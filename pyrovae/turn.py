"""One thread at a time runs programs: what Pyro and torch keep for a whole process is one thread's until it is done.

Pyro's handlers and its param store, torch's random state, and the mode (train or eval) of a VAE's modules are not kept
by thread. Whatever runs a pair's programs or draws from a seed does so inside `TURN`; other threads wait.
"""

from __future__ import annotations

import os
import threading
import warnings

# Seconds that a thread waits for one turn of another before it says so.
PATIENCE = 30.0


class Turn:
    """A lock that the thread which holds it may take again, `with TURN:`.

    Raises:
        RuntimeError: this process was forked while another thread held it.

    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holder, self._depth, self._turns = "", 0, 0
        self._torn = False

    def __enter__(self) -> None:
        if self._torn:
            raise RuntimeError(
                "this process was forked while another thread ran programs: Pyro's handlers are as that thread left "
                "them, which is gone. Fork before threads start, or start processes by 'spawn'."
            )
        if not self._lock.acquire(blocking=False):
            self._wait()
        self._depth += 1
        if self._depth == 1:
            self._holder = threading.current_thread().name
            self._turns += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        self._lock.release()

    def _wait(self) -> None:
        turn = self._turns
        while not self._lock.acquire(timeout=PATIENCE):
            if turn == self._turns:
                warnings.warn(
                    f"thread '{threading.current_thread().name}' has waited {PATIENCE:g} s for thread "
                    f"'{self._holder}' and waits on: one thread at a time runs programs, and a training runs them "
                    "until it ends. If that thread waits for this one, as a callback may that hands work to threads, "
                    "neither goes on: let the callback do the work itself.",
                    stacklevel=3,
                )
                self._lock.acquire()
                return
            turn = self._turns

    def after_fork(self) -> None:
        """In the child, which has this thread alone: nobody else will ever end a turn there."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock, self._torn = threading.RLock(), True


TURN = Turn()
if hasattr(os, "register_at_fork"):  # there are no forks on Windows
    os.register_at_fork(after_in_child=TURN.after_fork)
