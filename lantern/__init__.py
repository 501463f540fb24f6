"""Lantern: LLM-refined multi-modal emotion recognition in conversation, as experiments one can believe."""
