"""What an ``indice_key`` names: the map of one layer, to be found again by an inverse convolution."""

from __future__ import annotations

from sparseconv.tensor import NamedMap, SparseTensor


def remember(source: SparseTensor, output: SparseTensor, name: str | None, record: NamedMap) -> SparseTensor:
    """Attach ``record`` to ``output`` under ``name``; a name that already stands for the same map is fine.

    Raises:
        ValueError: the name stands for another map.
    """
    if name is None:
        return output
    known = source.named_maps.get(name)
    if known is None:
        return output.with_named_map(name, record)
    same = (
        known.is_current
        and known.kind == record.kind
        and known.geometry == record.geometry
        and known.inputs.same_sites(record.inputs)
        and known.outputs.same_sites(record.outputs)
    )
    if not same:
        raise ValueError(
            f"indice_key {name!r} already names the map of a {known.kind} with {known.geometry} on "
            f"{len(known.inputs)} sites, and this is a {record.kind} with {record.geometry} on "
            f"{len(record.inputs)} sites. Give this layer a name of its own (maps of equal geometry are shared "
            "without a name)."
        )
    return output


def recall(source: SparseTensor, name: str) -> NamedMap:
    """The map that an earlier layer left under ``name``, checked to end on ``source``'s sites.

    Raises:
        ValueError: no such name, a submanifold layer's, or one that ends on other sites.
    """
    record = source.named_maps.get(name)
    if record is None:
        known = ", ".join(repr(key) for key in source.named_maps) or "none"
        raise ValueError(
            f"no layer that led to this tensor has indice_key {name!r} (known: {known}): give the paired "
            "convolution that key, and keep its result's tensor (replace_feature keeps it, a new SparseTensor "
            "does not)"
        )
    if record.kind == "submanifold":
        raise ValueError(
            f"indice_key {name!r} names a submanifold layer, which changes no sites: name the strided layer to "
            "be undone, or use SubMConv"
        )
    if not record.is_current:
        raise ValueError(
            f"indices that indice_key {name!r} was built on were changed in place since: change a copy, or run "
            "the strided layer again"
        )
    if not record.outputs.same_sites(source.coordinates):
        raise ValueError(
            f"indice_key {name!r} names a map that ends on {record.outputs}, but the input lies on "
            f"{source.coordinates}: undo strided layers in reverse order, on the sites that they made"
        )
    return record
