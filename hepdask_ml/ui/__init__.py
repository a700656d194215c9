"""What users see and keep: the command line, tables, plots and files."""
