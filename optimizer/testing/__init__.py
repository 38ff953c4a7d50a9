"""Checks that an optimizer with a schedule inside does what the library promises."""
