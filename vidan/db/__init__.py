"""Tables, connections and the schema's versions."""
