"""Everything that a user reads or looks at: tables, metrics, plots."""
