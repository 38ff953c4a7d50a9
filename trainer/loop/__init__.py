"""Updates and evaluations."""
