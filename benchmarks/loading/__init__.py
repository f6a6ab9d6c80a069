"""Load on a running service: an installation to load, page clients, readers, and what is watched meanwhile."""
