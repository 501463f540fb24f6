"""CORECT backbone (Nguyen et al., EMNLP 2023, arXiv 2311.04507)."""

from lantern.models.corect.config import Config
from lantern.models.corect.model import Model
from lantern.models.corect.published import fill_published, load_published

__all__ = ["Config", "Model", "fill_published", "load_published"]
