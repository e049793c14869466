"""Base of every layer that takes a sparse tensor."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self

from torch import nn


class SparseModule(nn.Module):
    """A module whose forward takes a :class:`sparseconv.SparseTensor`.

    Derive from it, so that :class:`Sequential` hands the sparse tensor over and not its features.
    """


def _with_body_of(own: str | None, base: str | None) -> str | None:
    """A docstring of its own first, then all but the first paragraph of the base's."""
    if not own or not base:
        return own
    body = inspect.cleandoc(base).partition("\n\n")[2]
    return f"{inspect.cleandoc(own)}\n\n{body}\n"


class DimensionedModule(SparseModule):
    """A layer whose named classes state their number of axes: ``class SubMThing3d(Thing, ndim=3, subm=True)``.

    The docstring of a named class is completed by that of its base.
    """

    _ndim: ClassVar[int]
    _subm: ClassVar[bool]

    def __init_subclass__(cls, *, ndim: int | None = None, subm: bool = False, **kwargs: Any) -> None:
        """Number of axes, and whether the output sites are the input's."""
        super().__init_subclass__(**kwargs)
        if ndim is not None:
            cls._ndim, cls._subm = ndim, subm
            cls.__doc__ = _with_body_of(cls.__doc__, cls.__mro__[1].__doc__)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse the base of a family, which has no number of axes.

        Raises:
            TypeError: the class names no number of axes.
        """
        if not hasattr(cls, "_ndim"):
            named = [kind.__name__ for kind in cls.__subclasses__() if getattr(kind, "_ndim", None) == 3]
            remedy = f"use {' or '.join(named)}, or those of 1, 2 or 4 axes" if named else "derive with ndim=.."
            raise TypeError(f"{cls.__name__} is a base without a number of axes: {remedy}")
        return super().__new__(cls)


def takes_sparse(module: nn.Module) -> bool:
    """Whether a module, or any module inside it, is a :class:`SparseModule`."""
    return any(isinstance(part, SparseModule) for part in module.modules())
