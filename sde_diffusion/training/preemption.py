"""SIGTERM, with which a machine about to be taken away asks a run to save and leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def preemption_notice() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, instead of ending the process, until the block is left."""
    notice = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Python lets only the main thread choose what a signal does.
        yield notice
        return
    before = signal.signal(signal.SIGTERM, lambda *_: notice.set())
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, before)
