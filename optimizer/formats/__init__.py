"""Files of other tools, read and written: one module per format (docs/formats.md)."""
