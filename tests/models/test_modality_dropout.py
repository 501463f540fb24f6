from __future__ import annotations

import pytest
import torch

from lantern.config.schema import ModelConfig
from lantern.errors import UserError
from lantern.models.batch import Batch
from lantern.models.module import drop_modalities


def batch(dialogues: int) -> Batch:
    features = {m: torch.ones(dialogues, 3, 2) for m in ("text", "audio", "visual")}
    mask = torch.ones(dialogues, 3, dtype=torch.bool)
    present = {m: mask.clone() for m in features}
    nothing = torch.zeros(dialogues, 3, dtype=torch.long)
    return Batch(features, nothing, mask, nothing, torch.zeros(dialogues, 3, 3), present)


def test_whole_dialogues_lose_modalities_but_never_all() -> None:
    torch.manual_seed(0)
    given = batch(4000)
    found = drop_modalities(given, 0.5)
    kept = torch.stack([found.present[m][:, 0] for m in found.present], dim=1)
    for number, name in enumerate(found.features):
        assert torch.equal(found.features[name][..., 0].bool(), kept[:, number, None].expand(-1, 3))
        assert torch.equal(found.present[name], kept[:, number, None].expand(-1, 3))
    assert kept.any(dim=1).all()
    # 1/2 kept, and in an eighth of the dialogues one of three was spared.
    assert float(kept.float().mean()) == pytest.approx(0.5 + 1 / 24, abs=0.02)
    assert all(bool(x.all()) for x in given.features.values())


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"model\.modality_dropout"):
        ModelConfig(modality_dropout=value)
