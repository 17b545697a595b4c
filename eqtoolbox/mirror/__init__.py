"""Mirrors: reflection symmetries of a loss and the constraints Oᵀθ = 0 that they put on training.

Reference:
  Ziyin, "Symmetry Induces Structure and Constraint of Learning" (2024).
"""

from eqtoolbox.mirror._mirror import Mirror, direct_sum, from_directions, from_map
from eqtoolbox.mirror._of import Family, Mirrors, of, reflection

__all__ = [
    "Family",
    "Mirror",
    "Mirrors",
    "direct_sum",
    "from_directions",
    "from_map",
    "of",
    "reflection",
]
