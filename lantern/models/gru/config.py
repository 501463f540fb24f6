"""The options of the GRU backbone."""

from __future__ import annotations

from dataclasses import dataclass

from lantern.settings import Count, Rate, check


@dataclass
class Config:
    """Options of the GRU backbone."""

    hidden: Count = 128
    """Width of the projected features and of the GRU in each direction."""
    layers: Count = 1
    """GRU layers."""
    dropout: Rate = 0.3
    """On the projected features, between layers, and on the hidden vectors before the class layer."""
    bidirectional: bool = True
    """Read the dialogue in both directions; False sees the past only."""

    def __post_init__(self) -> None:
        check(self, "backbone")
