"""What the daemons tell Prometheus, on the page `/metrics` beside `/health`: names, units and HELP by its conventions.

In: what the loops note, and frozen views that they leave behind. Out: the page, made when it is asked for, in the
asker's thread. Must never hold a loop up, ask Consul or a server anything, or decide anything.
"""
