"""6: the journal's entries, told to people. `choice` is pure and says what comes next; the rest delivers it, beside
the leader's loop and never in it."""
