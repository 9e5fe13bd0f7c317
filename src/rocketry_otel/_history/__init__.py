"""Reading back what a repository keeps."""
