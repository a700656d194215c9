"""The peers' scripts import what only the benchmark's own environment holds."""

collect_ignore_glob = ["peer_*.py"]
