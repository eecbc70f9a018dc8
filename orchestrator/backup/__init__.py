"""Backups of the database and of Consul: made on a timer, proved by starting from them once, kept by number.

`turn` (pure) says which VM makes one, `kept` what there is and what may go, `make` runs the servers' own tools,
`restore` goes back to one. All of it is for root on a VM: `orch backup` is the only caller.
"""
