"""Components and optimizers from a config, tried before the first update."""
