"""Frozen values that every stage speaks: policy, records in KV, view, decisions, wire format.

Nothing here does I/O or knows what time it is.
"""
