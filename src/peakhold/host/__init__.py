"""The border between callbacks and a framework: all that a callback may ask of a model."""
