"""What answers a query: documents, log, encoder, index, releases, search."""
