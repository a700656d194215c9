"""Data: from what an analysis has to what its models and its training take."""
