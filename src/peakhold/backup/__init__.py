"""What `BackupAndRestore` is made of.

keeping        the participant: it takes over what was interrupted, and backs up
interrupted    what a backup holds, and who is given it
configuration  what the program says of a run, and what it said when the run began
state          what a backup must look like before anything of it is used
record         what the epochs before have logged, as it is saved
folder         the backups of one run
"""
