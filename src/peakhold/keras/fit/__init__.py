"""What is done inside Keras's own loop."""
