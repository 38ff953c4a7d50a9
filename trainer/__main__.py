"""`python -m trainer`: the same as `innerstep`."""

from trainer.cli import main

if __name__ == "__main__":  # and not where a config names this module
    main()
