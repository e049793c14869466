"""The kernel axes of a weight against the axes of its input."""

from __future__ import annotations

from torch import Tensor


def check_kernel_axes(weight: Tensor, ndim: int, leading: str = "C_out") -> tuple[int, ...]:
    """Kernel size of a weight ``[<leading>, *kernel, C_in / groups]``.

    Args:
        weight: of a layer or of the user.
        ndim: number of spatial axes of the input.
        leading: names of the axes before the kernel's, with commas between them.

    Raises:
        ValueError: another number of axes.
    """
    before = leading.count(",") + 1
    if weight.dim() != before + ndim + 1:
        raise ValueError(
            f"the weight must have shape [{leading}, *kernel, C_in / groups] with {ndim} kernel axes, got "
            f"{list(weight.shape)}: the input has {ndim} spatial axes, so use a layer whose name ends in {ndim}d"
        )
    return tuple(weight.shape[before:-1])
