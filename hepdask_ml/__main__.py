"""Lets ``python -m hepdask_ml`` stand for the program ``hepdask-ml``."""

from hepdask_ml.ui.cli import main

if __name__ == "__main__":
    main()
