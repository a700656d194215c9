"""Parts of the cluster, which are started by up.sh, are no tests."""

collect_ignore = ["dns.py", "image.py", "operator_main.py"]
