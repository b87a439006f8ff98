"""scikit-build-core, which also asks for the pinned MLX (its headers and libmlx) while building a wheel."""

import sys
from pathlib import Path

from scikit_build_core import build as backend
from scikit_build_core.build import *  # noqa: F403  the hooks of PEP 517

sys.path.insert(0, str(Path(__file__).parent))
from pins import mlx_requirement  # noqa: E402


def get_requires_for_build_wheel(config_settings=None):
    return [*backend.get_requires_for_build_wheel(config_settings), mlx_requirement()]
