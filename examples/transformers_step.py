"""Training steps of plain transformers models (needed here) with these losses for their own: the same gradients."""

import argparse

import torch
from transformers import BertConfig, BertForMaskedLM, BertForTokenClassification

from xlt_engine.kernels import linear_cross_entropy, soft_label_loss, votes

VOTERS, CLASSES, ALPHA = 3, 5, 0.3
SIZES = {"vocab_size": 4001, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = BertConfig(**SIZES, intermediate_size=128, initializer_range=0.1, num_labels=VOTERS * CLASSES)


def masked_lm_loss(model, ids, labels):
    """Only masked rows go through the head, and their [rows, vocabulary] logits are never formed as a whole."""
    masked, head = labels != -100, model.cls.predictions
    rows = head.transform(model.bert(ids).last_hidden_state[masked])
    return linear_cross_entropy(rows, head.decoder.weight, head.decoder.bias, labels[masked], reduction="mean")


def soft_loss(student, teacher):
    """The teacher's mean probability, on tokens where its voters agree and each is surer than ALPHA; [M, K, C] both."""
    voted = votes(teacher)
    keep = voted.agree & (voted.min_confidence > ALPHA)
    return soft_label_loss(student, voted.mean_probability, weights=keep.float(), reduction="mean")


def plain_soft_loss(student, teacher):
    confidence, label = teacher.softmax(-1).max(-1)
    keep = (label == label[0]).all(0) & (confidence.min(0).values > ALPHA)
    return (student.softmax(-1) - teacher.softmax(-1).mean(0))[:, keep].square().mean()


def compare(name, model, plain, ours):
    wanted, found = (torch.autograd.grad(x, list(model.parameters()), retain_graph=True) for x in (plain, ours))
    least = max(g.norm() for g in wanted) / 1000  # a key's bias has no effect: its gradient is noise
    worst = max(float((a - b).norm() / a.norm().clamp(min=least)) for a, b in zip(wanted, found, strict=True))
    print(f"{name}: own loss {plain.item():.6f}, ours {ours.item():.6f}, gradients differ by {worst:.1e} at most")
    if not max(worst, abs(plain.item() / ours.item() - 1)) <= 1e-5:
        raise SystemExit(f"{name}: the losses or gradients are not the same")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    torch.manual_seed(0)
    ids = torch.randint(CONFIG.vocab_size, (8, 32), device=parser.parse_args().device)
    labels = torch.where(torch.rand(ids.shape, device=ids.device) < 0.15, ids, -100)
    model = BertForMaskedLM(CONFIG).to(ids.device).eval()  # no dropout, so that two steps can be compared
    compare("masked LM", model, model(ids, labels=labels).loss, masked_lm_loss(model, ids, labels))
    models = [BertForTokenClassification(CONFIG).to(ids.device).eval() for _ in range(2)]
    student, teacher = (m(ids).logits.view(-1, VOTERS, CLASSES).transpose(0, 1) for m in models)
    teacher = teacher.detach()
    compare("self-training", models[0], plain_soft_loss(student, teacher), soft_loss(student, teacher))


if __name__ == "__main__":
    main()
