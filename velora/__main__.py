"""The command line: `python -m velora`."""

from velora.cli import main

if __name__ == "__main__":
    main()
