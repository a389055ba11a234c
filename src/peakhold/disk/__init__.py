"""The door to the operating system: every call that touches a disk goes through here."""
