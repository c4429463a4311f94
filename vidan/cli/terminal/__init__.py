"""How output looks: text, tables, progress bars, and single keys that are pressed."""
