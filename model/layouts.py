"""The layouts of the BERT family; another one is one more entry of `LAYOUTS`.

Names of tensors are those of BERT's checkpoints, and a layout says how its own differ.
"""

from __future__ import annotations

from .layout import TASK_HEADS, Layout
from .modern_layouts import EUROBERT, MODERNBERT

BERT = Layout(
    title="BERT",
    model_type="bert",
    classes="Bert",
    prefix="bert.",
    heads={
        "pooler": ("pooler.",),
        "next-sentence": ("cls.seq_relationship.",),
        "masked-lm": ("cls.predictions.",),
        **TASK_HEADS,
    },
)

XLM_ROBERTA = Layout(
    title="XLM-RoBERTa",
    model_type="xlm-roberta",
    classes="XLMRoberta",
    prefix="roberta.",
    defaults={"pad_token_id": 1},
    positions_after_pad=True,
    renames=(
        ("cls.predictions.transform.LayerNorm.", "lm_head.layer_norm."),
        ("cls.predictions.transform.", "lm_head."),
        ("cls.predictions.", "lm_head."),
    ),
    heads={"pooler": ("pooler.",), "masked-lm": ("lm_head.",), **TASK_HEADS},
    classifier=("mlp", "cls"),
)

DISTILBERT = Layout(
    title="DistilBERT",
    model_type="distilbert",
    classes="DistilBert",
    prefix="distilbert.",
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "dim",
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "max_positions": "max_position_embeddings",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "initializer_range",
        "pad_token_id": "pad_token_id",
    },
    constants={"num_segments": 0, "layer_norm_eps": 1e-12},
    only={"activation": "gelu", "sinusoidal_pos_embds": False, "tie_word_embeddings": True},
    renames=(
        ("encoder.layer.", "transformer.layer."),
        ("attention.self.query.", "attention.q_lin."),
        ("attention.self.key.", "attention.k_lin."),
        ("attention.self.value.", "attention.v_lin."),
        ("attention.output.dense.", "attention.out_lin."),
        ("attention.output.LayerNorm.", "sa_layer_norm."),
        ("intermediate.dense.", "ffn.lin1."),
        ("output.dense.", "ffn.lin2."),
        ("output.LayerNorm.", "output_layer_norm."),
        ("pooler.dense.", "pre_classifier."),
        ("cls.predictions.transform.dense.", "vocab_transform."),
        ("cls.predictions.transform.LayerNorm.", "vocab_layer_norm."),
        ("cls.predictions.decoder.", "vocab_projector."),
        ("cls.predictions.", "vocab_projector."),
    ),
    body=("embeddings.", "transformer."),
    heads={
        "pooler": ("pre_classifier.",),
        "masked-lm": ("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
        **TASK_HEADS,
    },
    pooler_activation="relu",
    head_dropout={"classification": ("seq_classif_dropout", 0.2)},
)

LAYOUTS = {layout.model_type: layout for layout in (BERT, XLM_ROBERTA, DISTILBERT, MODERNBERT, EUROBERT)}
