"""Durable work, whatever it is: planned in units, lent in blocks, kept in a ledger."""
