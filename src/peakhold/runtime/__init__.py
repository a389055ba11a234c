"""What carries decisions out: one session for each training run, and its signal handler."""
