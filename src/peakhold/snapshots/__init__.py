"""Copies of a state in memory: what training waits for."""
