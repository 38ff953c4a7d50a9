"""The components, data and objective that innerstep brings. Importing this package registers them."""

from . import classification, digits, modules

__all__ = ["classification", "digits", "modules"]
