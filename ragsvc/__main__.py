"""`python -m ragsvc`, and the command `ragsvc`."""

import sys

INTERRUPTED = 130


def main() -> int:
    """Run a command and return its exit code. Ctrl-C is one line also while the command is still being loaded."""
    try:
        from ragsvc import cli

        return cli.main()
    except KeyboardInterrupt:
        print("ragsvc: interrupted before anything was begun", file=sys.stderr)  # noqa: T201
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
