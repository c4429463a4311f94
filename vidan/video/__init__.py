"""Frames of files and live streams, numbered exactly, also after a resume."""
