"""Training of models as durable, resumable work."""
