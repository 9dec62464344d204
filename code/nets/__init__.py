"""Architectures that are options of the three scripts."""
