"""Memory-mapped tables: the container format, the three kinds, the manifest, and the snapshot of them all."""
