"""The two providers of embeddings, chat and moderation: OpenAI (and what speaks like it), and local."""
