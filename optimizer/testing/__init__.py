"""Checks of the library's invariants for any optimizer with a schedule inside."""
