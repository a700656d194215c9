"""From histograms to a HistFactory workspace."""
