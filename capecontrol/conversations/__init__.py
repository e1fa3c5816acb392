"""What you say: conversations with an assistant."""
