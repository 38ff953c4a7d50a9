"""`innerstep doctor`: measured checks on the files of a run."""
