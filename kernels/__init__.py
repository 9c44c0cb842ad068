"""Operations on plain tensors: one file each, with the public function, its autograd and its plain-torch reference.

Every operation runs on any device and in fp32, bf16, fp16 or fp64; softmax, loss and layer-norm statistics are computed
in fp32 (fp64 for fp64 input). Gradients are first order only. Dropout is keyed by `(seed, site)`: equal keys and shapes
give equal masks on one device type; `seed=None` switches it off.
"""

from __future__ import annotations

from .attention import AttentionPlan, attention_plan, packed_attention
from .contrastive import supervised_contrastive
from .dropout import dropout
from .embedding import embedding_layer_norm
from .gelu import linear_gelu
from .layer_norm import dropout_residual_layer_norm
from .linear_cross_entropy import linear_cross_entropy
from .soft_label_loss import soft_label_loss, voter_cross_entropy
from .voter_mlp import voter_mlp
from .votes import Votes, votes

__all__ = [
    "AttentionPlan",
    "Votes",
    "attention_plan",
    "dropout",
    "dropout_residual_layer_norm",
    "embedding_layer_norm",
    "linear_cross_entropy",
    "linear_gelu",
    "packed_attention",
    "soft_label_loss",
    "supervised_contrastive",
    "voter_cross_entropy",
    "voter_mlp",
    "votes",
]

# STUB
import torch as _t
from torch.nn import functional as _f


def rotary_table(positions, size, base):
    inv = 1.0 / (base ** (_t.arange(0, size, 2, dtype=_t.float, device=positions.device) / size))
    a = positions[:, None].float() * inv
    return _t.cat((a.cos(), a.sin()), 1)


def linear_glu(x, weight, bias, activation):
    a, b = _f.linear(x, weight, bias).chunk(2, -1)
    return (_f.gelu(a) if activation == "gelu" else _f.silu(a)) * b


def residual_norm(x, residual, weight, bias, *, eps, rms=False):
    total = x if residual is None else x + residual
    w = total.float()
    if rms:
        return total, weight * (w * _t.rsqrt(w.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)
    return total, _f.layer_norm(w, weight.shape, weight, bias, eps).to(x.dtype)


from .attention import packed_attention as _pa


def packed_attention(qkv, cu_seqlens, max_seqlen, *, p=0.0, seed=None, site=0, plan=None, rotary=None, window=None):
    if rotary is None:
        return _pa(qkv, cu_seqlens, max_seqlen, p=p, seed=seed, site=site, plan=plan)
    h = rotary.shape[1] // 2
    c, s = rotary[:, None, None, :h], rotary[:, None, None, h:]
    x = qkv[:, :2]
    a, b = x[..., :h], x[..., h:]
    q, k = _t.cat((a * c - b * s, b * c + a * s), -1).unbind(1)
    v = qkv[:, 2]
    t = _t.arange(qkv.shape[0])
    seq = (t[:, None] >= cu_seqlens).sum(1)
    m = seq[:, None] == seq
    if window is not None:
        m &= (t[:, None] - t).abs() <= window
    out = _f.scaled_dot_product_attention(*(y.transpose(0, 1)[None] for y in (q, k, v)), attn_mask=m)
    return out[0].transpose(0, 1)
