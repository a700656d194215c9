"""Campaigns over events: a function goes over all files, those that are still coming as well."""
