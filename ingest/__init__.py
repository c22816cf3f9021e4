"""From a folder of documents to chunks with vectors."""
