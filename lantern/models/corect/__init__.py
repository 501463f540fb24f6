"""CORECT backbone (Nguyen et al., EMNLP 2023, arXiv 2311.04507)."""
