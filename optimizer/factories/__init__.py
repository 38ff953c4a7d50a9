"""Factories: validated hyperparameters of an optimizer class, and `build`."""
