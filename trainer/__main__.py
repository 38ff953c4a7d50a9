"""`python -m trainer`: the same as `innerstep`."""

from .cli.main import main

if __name__ == "__main__":  # and not where a config names this module
    main()
