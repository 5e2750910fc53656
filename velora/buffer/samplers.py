"""Samplers: how a buffer chooses the experiences of a batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

from typing_extensions import Self, override

from velora import _core


@dataclass
class Sampler:
    """Base class of samplers, which choose the experiences of a `ReplayBuffer`'s batches.

    A buffer copies the sampler that it is given. `buffer.sampler` is that copy, bound to the
    buffer: changes of its adjustable attributes take effect at the next draw.
    """

    _adjustable: ClassVar[tuple[str, ...]] = ()
    _native: ClassVar[_core.Sampler | None] = None
    _is_bound: ClassVar[bool] = False

    def _build(self) -> _core.Sampler | None:
        """Builds the native sampler of one buffer; None selects the core's own, uniform one."""
        raise NotImplementedError

    def _bind(self) -> Self:
        """Returns a copy that is bound to a new buffer.

        Raises:
            TypeError: If an attribute has a wrong type.
            ValueError: If an attribute is out of range.
        """
        bound = dataclasses.replace(self)
        object.__setattr__(bound, "_native", self._build())
        object.__setattr__(bound, "_is_bound", True)
        return bound

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_bound:
            if name not in self._adjustable:
                expected = " or ".join(self._adjustable) or "none"
                raise AttributeError(
                    f"{name}: expected {expected}, which is what can change of the "
                    f"{type(self).__name__} sampler of a buffer, got another attribute"
                )
            setattr(self._native, name, _number(name, value))
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(_attributes(self).values())


@dataclass
class Uniform(Sampler):
    """Uniform draws without replacement: each experience is equally likely. The default."""

    @override
    def _build(self) -> None:
        return None


@dataclass
class Prioritized(Sampler):
    """Proportional prioritized experience replay.

    Experience i has a raw priority `p_i`, usually its absolute TD error. Draws are with
    replacement. In a buffer of N experiences, the probability of i (equation 1 of the paper) and
    its importance weight before normalisation (section 3.4) are

        P(i) = (p_i + eps)**alpha / sum_k (p_k + eps)**alpha
        w_i = (N * P(i))**-beta

    Multiply the loss by `batch.weights`, and pass new priorities to `buffer.update_priorities`. A
    new experience gets the largest raw priority in the buffer, or 1 if there is none, at the next
    draw or update, unless it comes with its own: `buffer.push(experience, priority=2.0)`. An
    experience with `p_i + eps = 0` is never drawn. If that holds for all experiences, draws are
    uniform, and a warning says so once.

    Rows must be in host memory, and sequences need `boundary="pad"`.

    Attributes:
        alpha: Exponent of priorities, 0 to 4; 0 is uniform. Adjustable: raw priorities are kept, so
            a change is exact, but the next draw takes a pass over the buffer.
        beta: Exponent of importance weights, 0 to 4; 1 fully corrects the bias of the draws.
            Adjustable: `buffer.sampler.beta = 0.4 + 0.6 * progress`.
        eps: Added to each priority, 0 to 1e9, so that experiences of priority 0 can be drawn.
        normalise: The divisor of weights. "buffer": the largest weight of any experience in the
            buffer, so that weights are at most 1 and comparable between batches. "batch": the
            largest weight in the batch. "none": 1.
        draws: "stratified": the total of all priorities is divided into B equal parts, and each
            part gives one of the B experiences, as in the paper. "independent": each experience is
            drawn from the total.
        maximum: The priority of a new experience. "buffer": the largest of the experiences in the
            buffer. "all_time": the largest that there ever was, as in the paper.

    Paper:
        Schaul et al. 2016, Prioritized Experience Replay, https://arxiv.org/abs/1511.05952.
    """

    alpha: float = 0.6
    beta: float = 0.4
    eps: float = 1e-6
    normalise: Literal["buffer", "batch", "none"] = "buffer"
    draws: Literal["stratified", "independent"] = "stratified"
    maximum: Literal["buffer", "all_time"] = "buffer"

    _adjustable: ClassVar[tuple[str, ...]] = ("alpha", "beta")

    @override
    def _build(self) -> _core.Sampler:
        for name in ("normalise", "draws", "maximum"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: expected a str, got {type(getattr(self, name)).__name__}")
        return _core.Prioritized(
            alpha=_number("alpha", self.alpha),
            beta=_number("beta", self.beta),
            eps=_number("eps", self.eps),
            normalise=self.normalise,
            draws=self.draws,
            maximum=self.maximum,
        )


# A new sampler gets its name here.
_SAMPLERS: tuple[type[Sampler], ...] = (Uniform, Prioritized)


def bind_sampler(sampler: Sampler) -> Sampler:
    """Returns the copy of a sampler that belongs to a new buffer.

    Raises:
        TypeError: If it is none of velora's, or an attribute has a wrong type.
        ValueError: If an attribute is out of range.
    """
    if type(sampler) not in _SAMPLERS:
        expected = " or ".join(f"{kind.__name__}(...)" for kind in _SAMPLERS)
        raise TypeError(f"sampler: expected {expected}, got {type(sampler).__name__}")
    return sampler._bind()


def plain_sampler(sampler: Sampler) -> tuple[str, dict[str, Any]]:
    """Converts a sampler to plain values."""
    return type(sampler).__name__, _attributes(sampler)


def sampler_of(plain: Any) -> Sampler:
    """Builds a sampler from untrusted plain values; a buffer checks the attributes.

    Raises:
        ValueError: If they do not name a sampler and its attributes.
    """
    kinds = {kind.__name__: kind for kind in _SAMPLERS}
    if type(plain) is not tuple or len(plain) != 2 or plain[0] not in kinds:
        raise ValueError(f"sampler: expected {' or '.join(kinds)} and its attributes, got {plain}")
    kind, attributes = kinds[plain[0]], plain[1]
    names = {item.name for item in dataclasses.fields(kind)}
    if type(attributes) is not dict or attributes.keys() != names:
        raise ValueError(f"sampler: expected attributes {sorted(names)}, got {attributes}")
    return kind(**attributes)


def _attributes(sampler: Sampler) -> dict[str, Any]:
    return {item.name: getattr(sampler, item.name) for item in dataclasses.fields(sampler)}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)
