"""Limits from toys as durable, distributed work."""
