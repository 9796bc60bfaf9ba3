"""Randomised response on labels (Warner 1965).

Of k classes: Kairouz, Bonawitz & Ramage, "Discrete distribution estimation under local privacy", ICML 2016. A label is
answered truly with probability e^eps / (e^eps + k - 1), and otherwise by another. There is one answer a record, the
same whenever it is sent: sending it again tells nothing more, so that the whole run is one release.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from sim.foundation.rng import stream
from sim.privacy.events import DpEvent, dp
from sim.privacy.mechanisms.mechanism import OnLabels


@final
class LabelRr(OnLabels):
    """Answers for each label once."""

    name = "label-rr"
    pure = True
    keys = frozenset({"label_epsilon", "epsilon", "stop_at_epsilon"})
    sentence = "one label: it is randomised once, before it leaves; for everyone, and labels alone"

    def problem(self, key: str, value: Any, given: Mapping[str, Any]) -> str:
        """See ``Mechanism``."""
        alone = given.get("mechanism") == self.name
        if key == "label_epsilon" and alone and (value is None) == (given.get("epsilon") is None):
            return "give either this, for example 2, or epsilon in its place"
        if key == "label_epsilon" and not alone and value is None:
            return f"is missing beside {self.name}; give the epsilon of one label, such as 2"
        if key == "labels" and value == "public":
            return f'"public" labels need no {self.name}; keep one of the two'
        return ""

    def refusal(self, method: Any, cut: str | None, sent: Sequence[str]) -> str:
        """See ``Mechanism``."""
        if "labels" in sent:
            return ""
        shown = f"{method.name}, {cut}," if cut else method.name
        return (
            f"{self.name} randomises labels that are sent, and those of {shown} never leave the clinic; take a vanilla "
            f"cut, or leave {self.name} out"
        )

    def uniform(self, target: float, classes: int) -> float:
        """See ``OnLabels``: k / (e^eps + k - 1)."""
        tail = math.exp(-target)  # k e^-eps / (1 + (k - 1) e^-eps) does not overflow
        return classes * tail / (1 + (classes - 1) * tail)

    def event(self, uniform: float, classes: int) -> DpEvent:
        """See ``OnLabels``."""
        return dp.RandomizedResponseDpEvent(uniform, classes)

    def answers(
        self, labels: NDArray[np.int64], uniform: float, classes: int, key: str, clinic: int
    ) -> NDArray[np.int64]:
        """See ``OnLabels``; the run's key and the clinic name the stream."""
        random = stream(key, "noise.labels", clinic)
        drawn = random.random(len(labels)) < uniform
        return np.where(drawn, random.integers(classes, size=len(labels)), labels)


MECHANISM = LabelRr()
