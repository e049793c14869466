"""``spconv.pytorch.hash``: a table from integer keys to values. Here it is a sorted array."""

from __future__ import annotations

import torch
from torch import Tensor


class HashTable:
    """Integer keys to values. Of a key that is inserted twice the first value stays.

    Args:
        device: where keys and values live.
        key_dtype: int32 or int64.
        value_dtype: type of the values.
        max_size: largest number of keys; -1 for no limit.
    """

    def __init__(
        self,
        device: torch.device | str,
        key_dtype: torch.dtype,
        value_dtype: torch.dtype,
        max_size: int = -1,
    ) -> None:
        if key_dtype not in (torch.int32, torch.int64):
            raise TypeError(f"key_dtype must be torch.int32 or torch.int64, got {key_dtype}")
        self.key_dtype, self.value_dtype, self.max_size = key_dtype, value_dtype, max_size
        self._keys = torch.empty(0, dtype=key_dtype, device=device)
        self._values = torch.empty(0, dtype=value_dtype, device=device)

    @property
    def is_cpu(self) -> bool:
        """Whether it lives on the CPU."""
        return self._keys.is_cpu

    def insert(self, keys: Tensor, values: Tensor | None = None) -> None:
        """Add keys ``[N]`` with their values, 0 where none are given.

        Raises:
            ValueError: more keys than ``max_size``, or another number of values.
        """
        if values is None:
            values = torch.zeros(len(keys), dtype=self.value_dtype, device=keys.device)
        if len(keys) != len(values):
            raise ValueError(f"there must be a value for each of the {len(keys)} keys, got {len(values)}")
        all_keys = torch.cat([self._keys, keys.to(self.key_dtype)])
        all_values = torch.cat([self._values, values.to(self.value_dtype)])
        order = torch.argsort(all_keys, stable=True)
        all_keys, all_values = all_keys[order], all_values[order]
        is_first = torch.ones(len(all_keys), dtype=torch.bool, device=all_keys.device)
        is_first[1:] = all_keys[1:] != all_keys[:-1]
        if self.max_size >= 0 and int(is_first.sum()) > self.max_size:
            raise ValueError(f"{int(is_first.sum())} distinct keys exceed max_size {self.max_size}")
        self._keys, self._values = all_keys[is_first], all_values[is_first]

    def query(self, keys: Tensor, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Values ``[N]`` (0 where a key is absent, or what ``values`` held) and uint8 ``[N]``: 1 where absent."""
        rows, is_absent = self._find(keys)
        if values is None:
            values = torch.zeros(len(keys), dtype=self.value_dtype, device=keys.device)
        values[~is_absent] = self._values[rows[~is_absent]]
        return values, is_absent.to(torch.uint8)

    def insert_exist_keys(self, keys: Tensor, values: Tensor) -> Tensor:
        """Set the values of keys that are there; uint8 ``[N]``: 1 where a key is absent."""
        rows, is_absent = self._find(keys)
        self._values[rows[~is_absent]] = values[~is_absent].to(self.value_dtype)
        return is_absent.to(torch.uint8)

    def assign_arange_(self) -> Tensor:
        """Number the keys 0, 1, .. as values, in the order of :meth:`items`; returns their number, ``[1]``."""
        self._values = torch.arange(len(self._keys), dtype=self.value_dtype, device=self._keys.device)
        return self._count()

    def items(self, max_size: int = -1) -> tuple[Tensor, Tensor, Tensor]:
        """Keys in ascending order, their values, and how many there are, ``[1]``."""
        stop = len(self._keys) if max_size < 0 else max_size
        return self._keys[:stop].clone(), self._values[:stop].clone(), self._count()

    def _count(self) -> Tensor:
        return torch.tensor([len(self._keys)], device=self._keys.device)

    def _find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        keys = keys.to(self.key_dtype).contiguous()
        if len(self._keys) == 0:
            return torch.zeros(len(keys), dtype=torch.int64, device=keys.device), torch.ones_like(keys).bool()
        rows = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return rows, self._keys[rows] != keys
