"""The command `autoseg`, also as `python -m autoseg`."""

import sys

EXIT_CTRL_C = 130


def main() -> None:
    """Runs the command line; Ctrl-C while it is being loaded ends it without a traceback, too."""
    try:
        from autoseg.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("\nautoseg: stopped\n")
        sys.exit(EXIT_CTRL_C)


if __name__ == "__main__":
    main()
