"""Deliberate faults, one a detail of the method, each with the tests that must notice it.

`python -m tests.mutations` tries them.
"""

from tests.mutations.models import MODELS
from tests.mutations.neighbours import NEIGHBOURS
from tests.mutations.paper import PAPER
from tests.mutations.steps_and_pairs import STEPS_AND_PAIRS
from tests.mutations.texts import TEXTS

MUTATIONS = (*PAPER, *NEIGHBOURS, *STEPS_AND_PAIRS, *TEXTS, *MODELS)
