"""Functions with the names and arguments that other libraries have for them."""
