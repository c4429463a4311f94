"""`vidan db`: the schema of the database, and deleting old predictions."""
