"""SDT backbone (arXiv 2310.20494)."""
