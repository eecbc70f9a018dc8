"""Trials: do harm to a lab under client traffic and measure what the client and the orchestrator saw of it.

`demo` shows one, `bench` repeats many, the tests in tests/lab use the same parts.
"""
