"""Loads the library of velora's torch operators when this module is first imported."""

from importlib.util import find_spec

import torch


def _load() -> None:
    # Found by the import system, but not imported: the object holds operators, no Python module.
    spec = find_spec("velora._ops")
    if spec is None or spec.origin is None:
        raise ImportError(
            "velora was installed without its torch operators (velora/_ops). "
            "Reinstall it, for example with 'pip install --force-reinstall velora'."
        )
    torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]


_load()
# Python implementations of the operators; the registrations live as long as this object.
library = torch.library.Library("velora", "IMPL")  # type: ignore[no-untyped-call]
