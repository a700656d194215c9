"""Searches: what is varied, and which values are tried next."""
