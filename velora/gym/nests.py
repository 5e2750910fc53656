"""Nested arrays and tensors of environments and policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from velora.buffer import tree


def as_array(leaf: Any) -> Any:
    """Returns a tensor unchanged, anything else as a numpy array."""
    return leaf if isinstance(leaf, torch.Tensor) else np.asarray(leaf)


def as_numpy(leaf: Any) -> NDArray[Any]:
    """Converts a tensor or array to numpy; bfloat16, which numpy lacks, becomes float32."""
    if not isinstance(leaf, torch.Tensor):
        return np.asarray(leaf)
    leaf = leaf.detach().cpu()
    array: NDArray[Any] = (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy()
    return array


def flags(values: Any) -> NDArray[np.bool_]:
    """Converts flags on any device to a numpy mask `(K,)`."""
    return as_numpy(values).astype(np.bool_, copy=False).reshape(-1)


def copied(nest: Any, name: str) -> Any:
    """Copies a nest of arrays.

    Args:
        nest: Arrays, tensors, numbers, and dicts and tuples of these.
        name: Name of the nest in error messages.

    Raises:
        ValueError: If a leaf is something else.
    """
    if type(nest) is np.ndarray and nest.dtype != object:  # fast path
        return nest.copy()
    return tree.map_named_leaves(_copied_array, nest, name)


def _copied_array(name: str, leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().clone()
    try:
        array = np.array(leaf)
        is_array = array.dtype != object
    except (TypeError, ValueError):  # a list of lists of different lengths, say
        is_array = False
    if not is_array:
        raise ValueError(
            f"{name}: expected an array, a tensor or a number, got {type(leaf).__name__}"
        )
    return array


def replaced(nest: Any, index: Any, rows: Any, name: str) -> Any:
    """Copies a nest of arrays and replaces some rows, promoting dtypes to hold both.

    Args:
        nest: Arrays `(N, ...)`, or a nest of them. Not modified.
        index: The rows to replace: a mask `(N,)` or K positions.
        rows: A nest of the same structure with the K new rows, `(K, ...)`.
        name: Name of the nest in error messages.

    Raises:
        ValueError: If the rows differ in structure or shape, or no dtype holds both values exactly.
    """
    return tree.map_named_leaves(
        lambda path, leaf, leaf_rows: _replaced_rows(leaf, index, leaf_rows, path),
        nest,
        name,
        (rows,),
    )


def _replaced_rows(array: Any, index: Any, rows: Any, name: str) -> Any:
    if isinstance(rows, dict | tuple):
        raise ValueError(f"{name}: expected an array, got {tree.form_of(rows)}")
    if isinstance(array, torch.Tensor):
        rows = torch.as_tensor(rows, device=array.device)
    else:
        rows = as_numpy(rows)
    expected = tuple(array[index].shape)
    if tuple(rows.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(rows.shape)}")
    merged, rows = _promoted(array, rows, name)
    merged[index] = rows
    return merged


def stacked_rows(nests: Sequence[Any], name: str) -> Any:
    """Stacks K nests of arrays `(...)` into one nest of arrays `(K, ...)`.

    Raises:
        ValueError: If they differ in structure or shape.
    """
    return tree.map_named_leaves(_stacked_arrays, nests[0], name, tuple(nests[1:]))


def _stacked_arrays(name: str, *leaves: Any) -> Any:
    first = leaves[0]
    arrays = list(map(as_array, leaves))
    shape = tuple(arrays[0].shape)
    for array in arrays:
        if tuple(array.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(array.shape)}")
    if isinstance(first, torch.Tensor):
        return torch.stack([torch.as_tensor(array, device=first.device) for array in arrays])
    return np.stack([as_numpy(array) for array in arrays])


def _promoted(left: Any, right: Any, name: str) -> tuple[Any, Any]:
    """Copies the left array; returns both in a dtype that holds the values of both."""
    if left.dtype == right.dtype:
        return _cast(left, left.dtype), right
    dtypes: list[Any]
    if isinstance(left, torch.Tensor):
        dtypes = [torch.promote_types(left.dtype, right.dtype), torch.float64]
    else:
        dtypes = [np.result_type(left.dtype, right.dtype)]
    for dtype in dtypes:
        pair = _cast(left, dtype), _cast(right, dtype)
        if all(map(_same_values, pair, (left, right))):
            return pair
    raise ValueError(
        f"{name}: expected values that one dtype holds, got {left.dtype} and {right.dtype}, of "
        "which some would be rounded"
    )


def _cast(array: Any, dtype: Any) -> Any:
    return array.to(dtype, copy=True) if isinstance(array, torch.Tensor) else array.astype(dtype)


def _same_values(cast: Any, array: Any) -> bool:
    # Widening within a kind is exact. Skip the comparison there, since NaN never equals itself.
    if isinstance(array, torch.Tensor):
        if array.dtype.is_floating_point or not cast.dtype.is_floating_point:
            return True
    elif array.dtype.kind not in "iu" or cast.dtype.kind != "f":
        return True
    with np.errstate(invalid="ignore"):
        return bool((_cast(cast, array.dtype) == array).all())
