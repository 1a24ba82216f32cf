"""The last block of a vision transformer for the class token alone, which is all that the head reads of it."""

from typing import Any, TypeGuard

from peft.tuners.lora import Linear as LoraLinear
from timm.layers.activations import QuickGELU
from timm.layers.attention import Attention
from timm.layers.drop import DropPath
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F


class RowAttention(Attention):
    """timm's, with keys and values of every token and the query of the first alone."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens ``[n, tokens, width]`` to ``[n, 1, width]``."""
        if attn_mask is not None or is_causal:  # a mask may have any shape that broadcasts to [tokens, tokens]
            return super().forward(x, attn_mask, is_causal)[:, :1]
        n, tokens, _ = x.shape
        # The layer is called whole: an adapter's dropout draws the numbers that it draws in timm's block.
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        row = F.scaled_dot_product_attention(self.q_norm(q[:, :, :1]), self.k_norm(k), v)
        return self.proj(self.norm(row.transpose(1, 2).reshape(n, 1, self.attn_dim)))


class ClassTokenBlock(Block):
    """timm's, for the first token alone behind ``norm1``, keys and values."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens ``[n, tokens, width]`` to ``[n, 1, width]``."""
        attended = self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        row = x[:, :1] + self.drop_path1(self.ls1(attended))
        return row + self.drop_path2(self.ls2(self.mlp(self.norm2(row))))


ROWS = {Block: ClassTokenBlock, Attention: RowAttention}
WHOLE = ("norm1", "attn.qkv")  # still called with every token, so whatever is in them may stay
# What gives a token's row from that row alone. DropPath is among them, as it draws one number an image.
TOKENWISE = {Mlp, LoraLinear, nn.Linear, nn.LayerNorm, LayerNorm, nn.GELU, QuickGELU, LayerScale, DropPath, nn.Dropout}
TOKENWISE |= {nn.Identity, nn.ModuleDict, nn.ParameterDict, *ROWS, *ROWS.values()}


def read_last_row(model: nn.Module) -> bool:
    """Make ``model`` compute its last block for the class token alone, in place; returns whether it could.

    Outputs and gradients are the same but for rounding, and a step is cheaper by most of one block's matrix products.
    It can where the head reads nothing else: in timm's plain ViT with ``global_pool="token"``, which DINO's and CLIP's
    towers are. Any other model, and dropout behind the last keys and values, whose mask would be another draw, are left
    as they are. So call it behind ``adapt``; twice is as once. Only the classes of the last block and its attention
    change: parameters, names, hooks and mode stay, and what looks inside sees one row, ``[n, 1, width]``.
    """
    if not _reads_one_row(model):
        return False
    block: Any = model.blocks[-1]
    for module in (block, block.attn):
        module.__class__ = ROWS.get(type(module), type(module))
    return True


def _reads_one_row(model: nn.Module) -> TypeGuard[VisionTransformer]:
    # Not isinstance: a subclass may read more (the distilled ViT's head reads a second token).
    if type(model) is not VisionTransformer or model.global_pool != "token" or model.attn_pool is not None:
        return False
    block = model.blocks[-1]
    if not isinstance(block, Block) or not isinstance(block.attn, Attention):
        return False
    if not block.attn.fused_attn or block.attn.gate is not None:
        return False
    behind = [module for name, module in block.named_modules() if not name.startswith(WHOLE)]
    return all(type(m) in TOKENWISE and not (type(m) is nn.Dropout and m.p) for m in [*behind, *model.norm.modules()])
