"""The host of a model of Keras 2."""
