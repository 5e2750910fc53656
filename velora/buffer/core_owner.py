"""Ownership and pickling of a buffer's native core."""

from __future__ import annotations

import copyreg
from collections.abc import Iterable
from typing import Any

from velora._core import BufferCore, DrawSeed
from velora.buffer.schema import Schema
from velora.buffer.state import check_state, draw_seed, for_protocol, make_state, schema_of

# Attributes of the buffers themselves, which a pickle stores in another form.
_RESERVED = frozenset(
    {
        *(
            "_num_envs",
            "_lane_capacity",
            "_device",
            "_comes_by_copy",
            "_overwrite",
            "_seed",
            "_sampler",
            "_gamma",
        ),
        *("_n_step", "_storage", "_compact", "_frame_stack", "_first"),
        *("_push", "_extend", "push", "extend", "sample"),
    }
)


class CoreOwner:
    """Owns the schema and the native core of a buffer, both None before the first row.

    Pickling converts both to plain values. Unpickling restores all of them or raises.
    """

    _seed: DrawSeed

    def _count_pushed(self) -> int:
        """Number of experiences ever stored, including overwritten ones.

        After an interrupt, it tells whether a call stored its rows.
        """
        core = self._core
        return 0 if core is None else core.count_pushed()

    @property
    def _schema(self) -> Schema | None:
        """Fields of the rows; None before the first row."""
        first = self.__dict__.get("_first")
        return None if first is None else first[0]

    @property
    def _core(self) -> BufferCore | None:
        """The native core; None before the first row."""
        first = self.__dict__.get("_first")
        return None if first is None else first[1]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return copyreg.__newobj__, (type(self),), for_protocol(self.__getstate__(), protocol)  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        own = dict(self.__dict__)  # one copy: another thread may make the first push
        schema, core = own.get("_first", (None, None))
        return make_state(
            self._options(core),
            schema,
            (b"", self._seed.value, 0, b"", b"", b"") if core is None else core.state(),
            self._seed.worker,
            {name: value for name, value in own.items() if not self._is_ours(name)},
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = check_state(state)
        # A separate object: this one stays unchanged until everything has been restored.
        fresh = object.__new__(type(self))
        fresh._init(state["options"], draw_seed(state))
        if state["schema"] is not None:
            schema = schema_of(state["schema"])
            core = fresh._build(schema)
            core.restore(
                **{name: state[name] for name in ("lanes", "draws", "rows", "blocks", "sampler")}
            )
            fresh._adopt(schema, core)
        for name, value in state["attributes"].items():
            if type(name) is not str or self._is_ours(name):
                raise ValueError(f"attributes: expected those of a subclass, got {name!r}")
            fresh.__dict__[name] = value
        self.__dict__ = fresh.__dict__

    @classmethod
    def _is_ours(cls, name: str) -> bool:
        """Returns whether velora's classes, rather than subclasses, use this attribute name."""
        if name in _RESERVED:
            return True
        ours = [kind for kind in cls.__mro__ if kind.__module__.startswith("velora.")]
        return hasattr(ours[0], name)

    def _options(self, core: BufferCore | None) -> dict[str, Any]:
        """Returns the constructor arguments of an equal buffer, whose native core is `core`."""
        raise NotImplementedError

    def _init(self, options: dict[str, Any], seed: DrawSeed) -> None:
        """Initialises this buffer from untrusted options, which the constructor checks."""
        raise NotImplementedError

    def _build(self, schema: Schema, first: Iterable[Any] = ()) -> BufferCore:
        """Builds a native core; `first` are the values of the first experience, if any."""
        raise NotImplementedError

    def _adopt(self, schema: Schema, core: BufferCore) -> bool:
        """Installs the schema and the core of the first rows, unless others came first."""
        raise NotImplementedError
