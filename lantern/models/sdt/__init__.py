"""SDT backbone (arXiv 2310.20494)."""

from lantern.models.sdt.model import Config, Model
from lantern.models.sdt.published import export_published, fill_published, load_published, published_stages

__all__ = ["Config", "Model", "export_published", "fill_published", "load_published", "published_stages"]
