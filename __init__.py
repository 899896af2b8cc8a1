"""clickloop: semantic search that learns from its own users."""
