"""Signals after which a run saves and stops: SIGTERM, as sent before a preemption, and Ctrl-C."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def preemption_notice() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C (SIGINT) set, instead of ending the process.

    A second Ctrl-C ends the process at once, even while it waits for a compiler or a device.
    """
    notice = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Python allows only the main thread to set signal handlers.
        yield notice
        return

    def terminated(number: int, frame: FrameType | None) -> None:
        notice.set()

    def interrupted(number: int, frame: FrameType | None) -> None:
        notice.set()
        # The operating system's default handler: Python's would run only after a compilation ends.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("saving; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, terminated),
        signal.SIGINT: signal.signal(signal.SIGINT, interrupted),
    }
    try:
        yield notice
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
