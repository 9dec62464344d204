"""Architectures that are options of the scripts, and the optimiser Muon."""
