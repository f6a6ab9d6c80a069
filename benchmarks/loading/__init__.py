"""Load on a running service: an installation, page clients, readers, and what is watched."""
