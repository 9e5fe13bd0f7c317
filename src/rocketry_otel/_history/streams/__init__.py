"""Reading all records of a repository as a stream, one module for each kind of repository."""
