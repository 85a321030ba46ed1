"""Principal components: the features of large events where there is no classifier."""

from typing import NamedTuple

import numpy as np

COMPONENTS = 64
# Of the randomized range finder: passes over the data, and columns beyond those that are kept.
PASSES, EXTRA = 4, 32


class Components(NamedTuple):
    """Principal components of data: their mean [D] and orthonormal directions [D, K]."""

    mean: np.ndarray
    directions: np.ndarray

    def project(self, x: np.ndarray) -> np.ndarray:
        """The coordinates of x [N, D] along the directions, [N, K]."""
        return (x - self.mean) @ self.directions

    def features(self, x: np.ndarray) -> np.ndarray:
        """The coordinates, and the length of what they leave of x - mean: [N, K + 1].

        The last one keeps what lies outside of the directions, such as noise, from being unseen.
        """
        inside = self.project(x)
        # Not sqrt(|x - mean|^2 - |inside|^2), which loses a small rest by cancellation.
        rest = np.linalg.norm(x - self.mean - inside @ self.directions.T, axis=1)
        return np.concatenate([inside, rest[:, None]], axis=1)


def principal_components(data: np.ndarray, num: int = COMPONENTS, seed: int = 0) -> Components:
    """The `num` directions in which data [N, D] vary most; fewer where N or D is smaller.

    By subspace iteration from a random start: N D num operations a pass, where an exact
    decomposition takes N D^2 + D^3. Halko, Martinsson & Tropp 2011, "Finding structure with
    randomness: Probabilistic algorithms for constructing approximate matrix decompositions",
    algorithm 4.4.
    """
    mean = data.mean(axis=0)
    centred = data - mean
    num = min(num, *data.shape)
    columns = min(num + EXTRA, *data.shape)
    start = np.random.default_rng(seed).standard_normal((data.shape[1], columns))
    basis, _ = np.linalg.qr(centred @ start)
    for _ in range(PASSES):
        other, _ = np.linalg.qr(centred.T @ basis)
        basis, _ = np.linalg.qr(centred @ other)
    _, _, rows = np.linalg.svd(basis.T @ centred, full_matrices=False)
    return Components(mean, rows[:num].T)
