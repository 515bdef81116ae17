"""`python -m autoseg`."""

from autoseg.cli.app import main

if __name__ == "__main__":
    main()
