"""`python -m thalweg.cli` is `thalweg`."""

from thalweg.cli import main

if __name__ == "__main__":
    main()
