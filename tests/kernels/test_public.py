from xlt_engine import kernels

NAMES = [
    "AttentionPlan",
    "Votes",
    "adamw_step",
    "attention_plan",
    "dropout",
    "dropout_residual_layer_norm",
    "embedding_layer_norm",
    "gradient_norm",
    "linear_cross_entropy",
    "linear_gelu",
    "linear_glu",
    "packed_attention",
    "residual_norm",
    "rotary_table",
    "soft_label_loss",
    "supervised_contrastive",
    "voter_cross_entropy",
    "voter_mlp",
    "votes",
]


def test_public_names_are_documented_callables_not_modules() -> None:
    assert sorted(kernels.__all__) == NAMES
    for name in NAMES:
        value = getattr(kernels, name)
        assert callable(value), name
        assert value.__doc__, name
