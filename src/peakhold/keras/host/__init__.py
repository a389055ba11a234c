"""The host of a Keras model."""
