"""Idempotency keys: a POST that comes again is not carried out again (docs/decisions/0009)."""
