"""How many threads numpy's linear algebra uses."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for the matrix products inside, where threadpoolctl is installed.

    Products of small matrices lose by being shared, tenfold on a busy machine, and with one thread
    their rounding does not depend on the number of cores.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # it comes with scikit-learn
        yield
        return
    with threadpool_limits(1):
        yield
