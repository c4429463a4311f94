"""The statements by which scenarios are created, claimed, committed, ended and released."""
