"""A replicated database, as the guard of its VM sees and handles it."""
