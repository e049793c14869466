"""Whether a peer computed what this library did: without that, its speed means nothing."""

from __future__ import annotations

import numpy as np

Arrays = dict[str, np.ndarray]

# A sum of n rounded products in float32 is off by about sqrt(n) half-ulps of its largest partial sum, and the
# worst of a million sums by some six times that; two programs that sum in another order differ by both errors.
_HALF_ULP = 2.0**-24
_WORST_OF_MANY = 16
# A training step: a ReLU whose input rounds to the other side of zero changes a few entries of a gradient by a
# lot, so gradients of networks are compared by the norm of their difference. A wrong pair or tap changes it by far
# more.
_GRADIENT_SHARE = 0.02
# Through a network, each layer's errors pass through a norm that may magnify them.
_LAYER_GROWTH = 4


def tolerance(terms: int, depth: int = 1) -> float:
    """Largest difference, relative to the largest value, that rounding explains.

    Args:
        terms: products in one sum.
        depth: layers behind each other.
    """
    growth = 1 if depth == 1 else _LAYER_GROWTH * depth
    return _WORST_OF_MANY * _HALF_ULP * float(np.sqrt(terms)) * growth


def storage_tolerance(half_ulp: float, depth: int) -> float:
    """As :func:`tolerance` for a network whose every layer rounds its output to a half type.

    The roundings add up as a random walk; the worst of a million values is some six standard errors off.
    """
    return 6 * half_ulp * float(np.sqrt(depth))


def _order(sites: np.ndarray) -> np.ndarray:
    return np.lexsort(sites.T[::-1])


def mismatch(ours: Arrays, theirs: Arrays, relative: float, *, is_training: bool = False) -> str | None:
    """What differs, in words, or None where the outputs agree.

    Rows are compared as a set: sorted by their sites where there are any. Every array that both have is compared.

    Args:
        ours: output of this library.
        theirs: output of a peer.
        relative: tolerance, relative to the largest of our values.
        is_training: whether these are the gradients of a network.
    """
    ours, theirs = dict(ours), dict(theirs)
    if "indices" in ours:
        orders = []
        for arrays in (ours, theirs):
            if "indices" not in arrays:
                return "it gave no sites"
            orders.append(_order(arrays["indices"]))
            arrays["indices"] = arrays["indices"][orders[-1]]
            if "features" in arrays:
                arrays["features"] = arrays["features"][orders[-1]]
        if ours["indices"].shape != theirs["indices"].shape:
            return f"{len(theirs['indices']):,} rows instead of {len(ours['indices']):,}"
        differing = int((ours["indices"] != theirs["indices"]).any(1).sum())
        if differing:
            return f"{differing:,} of {len(ours['indices']):,} sites differ"
    shared = [name for name in ours if name in theirs and name != "indices"]
    if not shared and "indices" not in ours:
        return "nothing to compare"
    for name in shared:
        if is_training and name.startswith("gradient"):
            problem = _gradients_differ(name, ours[name], theirs[name])
        else:
            problem = _values_differ(name, ours[name], theirs[name], relative)
        if problem:
            return problem
    return None


def _values_differ(name: str, ours: np.ndarray, theirs: np.ndarray, relative: float) -> str | None:
    if ours.shape != theirs.shape:
        return f"{name} has shape {list(theirs.shape)} instead of {list(ours.shape)}"
    if ours.size == 0:
        return None
    largest = float(np.abs(ours).max())
    worst = float(np.abs(ours.astype(np.float64) - theirs).max())
    # `not` with `<=`, so that a NaN is a difference.
    if not worst <= relative * largest:
        return f"{name} differs by {worst:.3g}, largest value {largest:.3g}, allowed {relative * largest:.2g}"
    return None


def _gradients_differ(name: str, ours: np.ndarray, theirs: np.ndarray) -> str | None:
    if ours.shape != theirs.shape:
        return f"{name} has shape {list(theirs.shape)} instead of {list(ours.shape)}"
    exact = ours.astype(np.float64)
    apart, size = float(np.linalg.norm(exact - theirs)), float(np.linalg.norm(exact))
    # `not` with `<=`, so that a NaN is a difference.
    if not apart <= _GRADIENT_SHARE * size:
        return f"{name} differs by {apart:.3g} in norm, of {size:.3g}, allowed {_GRADIENT_SHARE * size:.2g}"
    return None
