"""What `BackupAndRestore` is made of."""
