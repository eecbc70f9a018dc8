"""Consul-backed failover orchestrator for a small fleet of VMs."""

__version__ = "0.1.0"
