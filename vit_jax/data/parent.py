"""Worker processes die with their trainer, also when that is killed, in any phase."""

import os
import sys
import threading
import time

_TRAINER = "VIT_JAX_TRAINER"


def announce() -> None:
    """Tells the worker processes that are started from now on whom they follow."""
    os.environ[_TRAINER] = str(os.getpid())


def follow() -> None:
    """In a process of `multiprocessing`: ends it when its trainer has ended.

    Called when `vit_jax` is imported: a worker does that first, and may spend a minute
    on other imports before it gets to any function of ours.
    """
    trainer = os.environ.get(_TRAINER)
    if trainer and "--multiprocessing-fork" in sys.orig_argv:
        # Polled, and not PR_SET_PDEATHSIG: that one fires when the *thread* that
        # started the worker ends, and it exists on Linux only.
        threading.Thread(target=_die_with, args=(int(trainer),), daemon=True).start()


def _die_with(trainer: int) -> None:
    while os.getppid() == trainer:
        time.sleep(0.5)
    os._exit(1)
