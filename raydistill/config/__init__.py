"""The configuration: one strict typed tree, filled from a preset or YAML file and dotted overrides.

Every value is checked before any work: an unknown key names the nearest one, a wrong type or range says what is
allowed. `load` returns the canonical tree that is written to run_dir/config.yaml and that fingerprints are made of.
"""

from raydistill.config.base import class_list, class_lists
from raydistill.config.evaluation import *  # noqa: F403
from raydistill.config.loading import build, changed, describe, leaves, load, nearest_key, presets, unusable
from raydistill.config.sampling import *  # noqa: F403
from raydistill.config.search import Search, search_space
from raydistill.config.sections import *  # noqa: F403
from raydistill.config.tune import TuneConfig

__all__ = [
    "Search",
    "TuneConfig",
    "build",
    "changed",
    "class_list",
    "class_lists",
    "describe",
    "leaves",
    "load",
    "nearest_key",
    "presets",
    "search_space",
    "unusable",
]
