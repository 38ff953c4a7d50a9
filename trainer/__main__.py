"""`python -m trainer`: the same as `innerstep`."""

from trainer.cli import main

main()
