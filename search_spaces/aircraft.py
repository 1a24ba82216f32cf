"""FGVC-Aircraft: 100 variants, manufacturers as sensitive groups (FairLoRA, table 6)."""

from search_spaces import fairlora_paper

# 100 classes in 64 images: about half of them are present in a batch, most of those once.
SPACES = fairlora_paper.spaces(
    "aircraft", "FGVC-Aircraft: 100 variants, by manufacturer", epochs=(10, 20, 40), fixed={"batch_size": 64}
)
