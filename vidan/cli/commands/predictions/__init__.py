"""`vidan predictions`: show, follow, find, export and draw stored detections."""
