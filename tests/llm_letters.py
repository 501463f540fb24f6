"""Replies by letters with token probabilities, as :class:`tests.llm_server.LLMServer` gives them."""

from __future__ import annotations

import hashlib
import math
import random
import re
from typing import Any

BEHAVIOURS = ("no_logprobs", "low_mass", "other_letter")


def letters_of(messages: list[dict[str, str]]) -> list[str]:
    """The letters that the system part gives to the classes; [] when it asks for something else."""
    return re.findall(r"^- .+? \(([A-Z])\): ", messages[0]["content"], re.MULTILINE)


def letters_reply(prompt: str, count: int, letters: list[str], behaviour: str) -> list[dict[str, Any]]:
    """Tokens of a reply for *count* utterances, right but for *behaviour*; a function of the prompt."""
    rng = random.Random(hashlib.sha256(prompt.encode()).hexdigest())
    mass = 0.001 if behaviour == "low_mass" else 0.9
    tokens: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        weights = [rng.random() + 0.01 for _ in letters]
        shares = {f" {letter}": mass * w / sum(weights) for letter, w in zip(letters, weights, strict=True)}
        ranked = sorted([*shares.items(), (" I", 1 - mass)], key=lambda pair: -pair[1])
        top = [{"token": spelt, "logprob": math.log(share), "bytes": None} for spelt, share in ranked]
        chosen = max(shares, key=lambda spelt: shares[spelt])
        written = f" {chr(ord(letters[-1]) + 1)}" if behaviour == "other_letter" else chosen
        tokens += [
            {"token": f"{number}", "logprob": -0.01, "bytes": None, "top_logprobs": []},
            {"token": ":", "logprob": -0.01, "bytes": None, "top_logprobs": []},
            {"token": written, "logprob": math.log(shares[chosen]), "bytes": None, "top_logprobs": top},
            {"token": "\n", "logprob": -0.01, "bytes": None, "top_logprobs": []},
        ]
    return tokens
