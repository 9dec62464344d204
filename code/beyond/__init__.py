"""Models that the assignment does not ask for."""
