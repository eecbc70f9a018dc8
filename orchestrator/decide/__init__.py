"""PURE: from what is seen to what is to be done. No I/O, no clock, no randomness, no log.

`decide(view, memory, policy, now)` is called by the leader's loop, by `orch plan`, by `orch replay` and by the
simulation. In: one view of the fleet. Out: decisions (data), diagnoses, the memory for the next call, one sentence.
"""

from orchestrator.decide.cycle import decide

__all__ = ["decide"]
