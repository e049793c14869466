"""Command lines: thin shells around the library."""
