"""Pendulum as the transitions of `transitions.npz` have it."""
