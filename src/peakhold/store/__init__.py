"""Files that cannot lie: committed whole or not at all, and known by their checksum."""
