"""What `ModelCheckpoint` is made of."""
