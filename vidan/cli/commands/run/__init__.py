"""`vidan run`: one video, analysed on this machine."""
