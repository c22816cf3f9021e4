"""Keep chunks and find them again: SQLite is the truth, FAISS is derived."""
