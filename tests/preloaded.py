"""What the processes of tests/processes.py find imported."""

import experiments.extract_features
import experiments.replay
import experiments.run  # noqa: F401
from lantern.environment import prepare
from lantern.refine.backends.listed import load_litellm

prepare(1)
load_litellm()
