"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Timings belong in `make bench`: a machine that does something else as well must not fail a property.
settings.register_profile("orch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("orch")
