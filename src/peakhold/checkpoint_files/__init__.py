"""What `ModelCheckpoint` is made of: what it does in a run, and organs that know nothing of it.

saving       the participant: it asks the policy, and has written what it decides
arguments    what can be wrong with an argument
template     the name of a file, with places to fill
requests     a save that was asked for, and what became of it
writer       which thread writes, from how many copies of the state, and what it waits for
queue        the saves that are under way
folder       the files that are there: committed, known by their sidecar
retention    which of them may go
"""
