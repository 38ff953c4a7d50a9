"""Calls under the names that other libraries have for them."""
