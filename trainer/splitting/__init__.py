"""One module taken apart into components, and whole again for a forward pass."""
