"""Keras's file formats, planned and written by us."""
