"""Policies: pure state machines that read observations and make decisions. One per file."""
