"""`python -m akgp.cli`, for whoever has no `akgp` on the PATH."""

from akgp.cli import main

if __name__ == "__main__":
    main()
