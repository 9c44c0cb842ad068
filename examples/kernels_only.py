"""The operations on plain tensors, in a model that has nothing else to do with this package."""

import torch

from xlt_engine.kernels import linear_cross_entropy, packed_attention, votes


def main() -> None:
    torch.manual_seed(0)

    # Cross entropy of a large vocabulary: the [rows, vocabulary] logits are never formed as a whole, and a frozen
    # matrix (requires_grad False) gets no gradient computed.
    hidden = torch.randn(64, 32, requires_grad=True)
    weight, bias, target = torch.randn(5000, 32), torch.zeros(5000), torch.randint(5000, (64,))
    target[::4] = -100
    loss = linear_cross_entropy(hidden, weight, bias, target, reduction="mean")
    loss.backward()
    expected = torch.nn.functional.cross_entropy(hidden.detach() @ weight.T + bias, target)
    print(f"linear_cross_entropy {loss.item():.6f}, plain torch {expected.item():.6f}")

    # Attention over sequences laid end to end, here of 3, 7 and 5 tokens: no padding, no mask.
    qkv, cu_seqlens = torch.randn(15, 3, 4, 8), torch.tensor([0, 3, 10, 15], dtype=torch.int32)
    out = packed_attention(qkv, cu_seqlens, 7)
    query, key, value = qkv[3:10].permute(1, 2, 0, 3)
    alone = torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(0, 1)
    print(f"packed_attention, second sequence: largest difference {(out[3:10] - alone).abs().max().item():.1e}")

    # Three voters on 1,000 items: agreement and lowest confidence in one call, and how many pass each threshold.
    gold = torch.randint(3, (1000,))
    logits = torch.randn(1000, 3) + 0.5 * torch.randn(3, 1000, 3) + 2.0 * torch.nn.functional.one_hot(gold, 3)
    result = votes(logits)
    for threshold in (0.0, 0.5, 0.7, 0.9):
        kept = result.agree & (result.min_confidence > threshold)
        right = (result.label == gold)[kept].float().mean()
        print(f"threshold {threshold:.1f}: {int(kept.sum()):4d} kept, {right:.3f} of them right")


if __name__ == "__main__":
    main()
