"""The operator's hand: reads Consul, writes requests and the operator's own keys, prints. One file per verb.

Decides nothing itself: it asks `decide` the same questions as the leader. Never writes an assignment.
"""
