"""Signals that ask a run to save and leave: SIGTERM before a machine is taken away, and Ctrl-C."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def preemption_notice() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C (SIGINT) set while the block runs, in place of their effect.

    A second Ctrl-C ends the process at once, even while it waits for a compiler or a device.
    """
    notice = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Python lets only the main thread choose what a signal does.
        yield notice
        return

    def terminated(number: int, frame: FrameType | None) -> None:
        notice.set()

    def interrupted(number: int, frame: FrameType | None) -> None:
        notice.set()
        # The system's own handler, because Python's would wait for the end of a compilation.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("saving; press Ctrl-C again to leave at once", file=sys.stderr, flush=True)

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminated),
        signal.SIGINT: signal.signal(signal.SIGINT, interrupted),
    }
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
