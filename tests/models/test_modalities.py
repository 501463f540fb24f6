from __future__ import annotations

import pytest
import torch

from lantern.corpora import types
from lantern.models.batch import Batch, Sizes
from lantern.models.registry import build_backbone

DIMS = {"text": 8, "audio": 6, "visual": 4, "physio": 5}


@pytest.mark.parametrize("name", ["corect", "sdt", "gru"])
def test_a_fourth_modality_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    order = ("text", "audio", "visual", "physio")
    for module in ("lantern.corpora.types", "lantern.models.corect.model", "lantern.models.sdt.model"):
        monkeypatch.setattr(f"{module}.MODALITIES", order)
    assert order == types.MODALITIES
    torch.manual_seed(0)
    options = {"hidden": 16} | ({"text_feedforward": 24, "text_heads": 2} if name == "corect" else {})
    backbone = build_backbone(name, options, Sizes(DIMS, classes=3, speakers=2)).eval()
    features = {m: torch.randn(2, 5, d) for m, d in DIMS.items()}

    def logits(physio: torch.Tensor) -> torch.Tensor:
        batch = Batch(
            features=features | {"physio": physio},
            speakers=torch.zeros(2, 5, dtype=torch.int64),
            mask=torch.ones(2, 5, dtype=torch.bool),
            labels=torch.zeros(2, 5, dtype=torch.int64),
            scores=torch.full((2, 5, 3), torch.nan),
        )
        with torch.no_grad():
            return backbone(batch).logits

    assert not torch.allclose(logits(features["physio"]), logits(torch.randn(2, 5, 5)))
