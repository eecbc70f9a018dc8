"""`orch doctor`: what is wrong with the fleet, and what to do about it.

`facts` (what was seen) -> `judge`, `judge_fleet` (PURE: facts in, findings out). Seen on each VM by `here`, over the
worker's SSH by `ask`; Consul and the queues are asked by whoever runs the doctor. Changes nothing anywhere.
"""
