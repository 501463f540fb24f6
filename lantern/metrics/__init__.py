"""Classification, calibration and dimension metrics, paired tests, and what the LLM changed. No torch."""
