"""The commands: a file for each command, a folder for each group with many of them."""
