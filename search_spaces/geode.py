"""GeoDE: 40 household objects, 6 regions of the world as sensitive groups (FairLoRA, tables 1 and 3)."""

from search_spaces import fairlora_paper

SPACES = fairlora_paper.spaces("geode", "GeoDE: 40 objects, 6 regions", epochs=(3, 5, 10), fixed={"batch_size": 64})
