"""PURE: how far a long row of measurements has come, and about how long the rest will take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Pace:
    """Compares what was expected with what it took; `expected_s` is the whole row's."""

    expected_s: float
    count: int
    done: int = 0
    _expected_of_done_s: float = 0.0
    _took_s: float = 0.0

    def note(self, expected_s: float, took_s: float) -> None:
        """Take one that is over."""
        self.done += 1
        self._expected_of_done_s += expected_s
        self._took_s += took_s

    def left_s(self) -> float:
        """Return the seconds that the rest will take if it goes as what is done did."""
        ratio = self._took_s / self._expected_of_done_s if self._expected_of_done_s else 1.0
        return max(0.0, self.expected_s - self._expected_of_done_s) * ratio

    def describe(self) -> str:
        """Return where the next one stands, for a progress line."""
        left_s = self.left_s()
        left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
        return f"{self.done + 1} of {self.count}, about {left} left"
