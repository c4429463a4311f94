"""Detectors, their devices, and one detector shared by many runs."""
