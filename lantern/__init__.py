"""Lantern."""
