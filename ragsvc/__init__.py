"""The service: index a folder of documents, answer questions about them over HTTP, cite every answer."""

__version__ = "0.1.0"
