"""The command line: one module for each command, and `main`, which reads the words."""
