"""Factories: validated hyperparameters of an optimizer class, and `build`."""

from .parameter_groups import trainable_parameters

__all__ = ["trainable_parameters"]
