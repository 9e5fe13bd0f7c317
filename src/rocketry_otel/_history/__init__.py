"""Reading the records of a repository."""
