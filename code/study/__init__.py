"""Everything that works on finished runs, and the list of runs."""
