"""The only place that talks to Consul: KV by compare-and-set, sessions, election, local agent."""
