"""Results as files, pictures of them, and advice in words."""
