"""`python -m akgp.cli`, where `akgp` is not on the PATH."""

from akgp.cli import main

if __name__ == "__main__":
    main()
