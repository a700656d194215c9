"""Questions put to a model: p-values, upper limits and discovery significance, from toys."""
