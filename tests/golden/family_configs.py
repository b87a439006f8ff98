"""The tiny models of make_family_fixtures.py: config.json as each family's checkpoints on the hub key it.

A model: config; length of its text; `off`: changes that each switch one feature off, which must move the logits;
and, where they are not the usual ones, `seed` (one with which fp32 rounds little), `std` of the weights, `dtype`
they are stored in, `ones` (norms store w for 1 + w) and `written` (changes to the config that transformers does not
see). In `off`, a key is a config key ("text_config.sliding_window" for a nested one), or "weights: REGEX" for
weights to overwrite.
"""

GEMMA = dict(ones=True)
YARN = {"factor": 4.0, "original_max_position_embeddings": 16}
LONG = [1.0, 1.5, 2.5, 4.0, 6.0, 8.0, 9.0, 12.0]


def model(config, length=32, off=(), **more):
    return dict(config=config, length=length, off=list(off), **more)


def sizes(**more):
    return {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "use_cache": True,
        **more,
    }


def head(architecture, model_type, **more):
    return {"architectures": [architecture], "model_type": model_type, "bos_token_id": 1, "eos_token_id": 2, **more}


def old(dtype="bfloat16", theta=10000.0, scaling=None):
    """How transformers 4 spells dtype and rope; most checkpoints do."""
    return {"torch_dtype": dtype, "rope_theta": theta, "rope_scaling": scaling, "transformers_version": "4.51.0"}


def alternating(count, last="full_attention", other="sliding_attention", every=2):
    return [last if (i + 1) % every == 0 else other for i in range(count)]


SILU = {"hidden_act": "silu", "attention_dropout": 0.0}
QWEN2 = dict(
    head("Qwen2ForCausalLM", "qwen2"),
    **SILU,
    **sizes(),
    max_window_layers=1,
    sliding_window=8,
    use_sliding_window=False,
)
QWEN3 = dict(
    head("Qwen3ForCausalLM", "qwen3"),
    **SILU,
    **sizes(head_dim=16),
    attention_bias=False,
    max_window_layers=2,
    sliding_window=None,
    use_sliding_window=False,
)
GEMMA2 = dict(
    head("Gemma2ForCausalLM", "gemma2", pad_token_id=0),
    **sizes(head_dim=16),
    hidden_act="gelu_pytorch_tanh",
    hidden_activation="gelu_pytorch_tanh",
    attention_bias=False,
    attention_dropout=0.0,
    attn_logit_softcapping=2.0,
    final_logit_softcapping=3.0,
    cache_implementation="hybrid",
    query_pre_attn_scalar=24,
    sliding_window=8,
    sliding_window_size=8,
)
GEMMA3_TEXT = dict(
    head("Gemma3ForCausalLM", "gemma3_text", pad_token_id=0),
    **sizes(head_dim=16, num_hidden_layers=4),
    hidden_activation="gelu_pytorch_tanh",
    attention_bias=False,
    attention_dropout=0.0,
    attn_logit_softcapping=None,
    final_logit_softcapping=None,
    query_pre_attn_scalar=24,
    sliding_window=8,
)
GEMMA3_VISION = {
    "hidden_size": 16,
    "image_size": 28,
    "intermediate_size": 16,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 7,
    "vision_use_head": False,
}
PHI3 = dict(
    head("Phi3ForCausalLM", "phi3", pad_token_id=0),
    **SILU,
    **sizes(rms_norm_eps=1e-5),
    attention_bias=False,
    embd_pdrop=0.0,
    resid_pdrop=0.0,
    auto_map={"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"},
)
LFM2 = dict(
    head("Lfm2ForCausalLM", "lfm2", pad_token_id=0),
    block_auto_adjust_ff_dim=True,
    block_dim=32,
    block_ff_dim=72,
    block_ffn_dim_multiplier=1.0,
    block_mlp_init_scale=1.0,
    block_multiple_of=16,
    block_norm_eps=1e-05,
    block_out_init_scale=1.0,
    block_use_swiglu=True,
    block_use_xavier_init=True,
    conv_L_cache=3,
    conv_bias=False,
    conv_dim=32,
    conv_dim_out=32,
    conv_use_xavier_init=True,
    full_attn_idxs=[1],
    hidden_size=32,
    initializer_range=0.02,
    max_position_embeddings=128,
    norm_eps=1e-05,
    num_attention_heads=4,
    num_heads=4,
    num_hidden_layers=3,
    num_key_value_heads=2,
    rope_theta=1000000.0,
    torch_dtype="bfloat16",
    transformers_version="4.55.0.dev0",
    use_cache=True,
    use_pos_enc=True,
    vocab_size=96,
)
SMOLLM3 = dict(
    head("SmolLM3ForCausalLM", "smollm3", pad_token_id=0),
    **SILU,
    **sizes(num_hidden_layers=4),
    **old(theta=5000.0),
    attention_bias=False,
    layer_types=["full_attention"] * 4,
    max_window_layers=28,
    mlp_bias=False,
    no_rope_layer_interval=4,
    no_rope_layers=[1, 0, 1, 0],
    pretraining_tp=2,
    sliding_window=None,
    use_sliding_window=False,
)
OLMO2 = dict(
    head("Olmo2ForCausalLM", "olmo2", pad_token_id=0),
    **SILU,
    **sizes(),
    **old("float32", 500000.0),
    attention_bias=False,
    tie_word_embeddings=False,
)
GRANITE = dict(
    head("GraniteForCausalLM", "granite", pad_token_id=0),
    **SILU,
    **sizes(rms_norm_eps=1e-5),
    **old(theta=10000000.0),
    attention_bias=False,
    attention_multiplier=0.2,
    embedding_multiplier=3.0,
    logits_scaling=0.5,
    residual_multiplier=0.6,
    mlp_bias=False,
    tie_word_embeddings=True,
)
MIXTRAL = dict(
    head("MixtralForCausalLM", "mixtral"),
    **SILU,
    **sizes(intermediate_size=32, rms_norm_eps=1e-5),
    **old(theta=1000000.0),
    num_experts_per_tok=2,
    num_local_experts=4,
    output_router_logits=False,
    router_aux_loss_coef=0.02,
    sliding_window=None,
    tie_word_embeddings=False,
)
QWEN3_MOE = dict(
    head("Qwen3MoeForCausalLM", "qwen3_moe"),
    **SILU,
    **sizes(head_dim=16),
    **old(theta=1000000.0),
    attention_bias=False,
    decoder_sparse_step=1,
    max_window_layers=2,
    mlp_only_layers=[],
    moe_intermediate_size=16,
    norm_topk_prob=True,
    num_experts=6,
    num_experts_per_tok=2,
    output_router_logits=False,
    router_aux_loss_coef=0.001,
    sliding_window=None,
    tie_word_embeddings=False,
    use_sliding_window=False,
)
GPT_OSS = dict(
    head("GptOssForCausalLM", "gpt_oss", pad_token_id=0),
    **SILU,
    **sizes(head_dim=16, intermediate_size=32, rms_norm_eps=1e-5),
    attention_bias=True,
    experts_per_token=2,
    initial_context_length=16,
    layer_types=["sliding_attention", "full_attention"],
    num_experts_per_tok=2,
    num_local_experts=4,
    output_router_logits=False,
    rope_scaling={"beta_fast": 32.0, "beta_slow": 1.0, "rope_type": "yarn", "truncate": False, **YARN},
    rope_theta=1000,
    router_aux_loss_coef=0.9,
    sliding_window=8,
    swiglu_limit=1.0,
    tie_word_embeddings=False,
    transformers_version="4.55.0.dev0",
)
MXFP4 = {
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
    "quant_method": "mxfp4",
}


def qwen3_5_text(model_type, key_dim=12, **more):
    return dict(
        **SILU,
        **sizes(head_dim=16, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1),
        attention_bias=False,
        attn_output_gate=True,
        dtype="bfloat16",
        bos_token_id=None,
        eos_token_id=2,
        full_attention_interval=3,
        layer_types=alternating(3, other="linear_attention", every=3),
        linear_conv_kernel_dim=4,
        linear_key_head_dim=key_dim,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_value_head_dim=12,
        mamba_ssm_dtype="float32",
        mlp_only_layers=[],
        model_type=model_type,
        mtp_num_hidden_layers=1,
        mtp_use_dedicated_embeddings=False,
        partial_rotary_factor=0.5,
        rope_parameters={
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000,
            "rope_type": "default",
        },
        **more,
    )


QWEN3_5_VISION = {
    "deepstack_visual_indexes": [],
    "depth": 1,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 8,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 8,
    "num_heads": 2,
    "num_position_embeddings": 4,
    "out_hidden_size": 32,
    "patch_size": 2,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN3_5_IMAGES = {"image_token_id": 92, "video_token_id": 93, "vision_start_token_id": 94, "vision_end_token_id": 95}
EXPERTS = {
    "moe_intermediate_size": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 16,
}


def qwen3_5(architecture, model_type, tied, **more):
    vision = {**QWEN3_5_VISION, "model_type": model_type}
    return {
        "architectures": [architecture],
        "model_type": model_type,
        **QWEN3_5_IMAGES,
        "text_config": qwen3_5_text(model_type + "_text", 8, **({"tie_word_embeddings": True} if tied else {}), **more),
        "tie_word_embeddings": tied,
        "transformers_version": "4.57.0.dev0",
        "vision_config": vision,
    }


NO_BIAS = {r"weights: \.bias$": 0.0}
NO_ROPE = {"rope_theta": 1e30}
NO_QK_NORM = {r"weights: [qk]_norm": 1.0}
NO_YARN = {"rope_scaling": None}
LINEAR = {"factor": 8.0, "rope_type": "linear"}
PHI4 = {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}


def longrope(dims=6):
    return {"long_factor": LONG[:dims], "short_factor": [1.0 + i / 8 for i in range(dims)], "type": "longrope"}


NEW_GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}

MODELS = {
    "qwen2": model(
        QWEN2 | old(theta=1000000.0) | {"tie_word_embeddings": False, "use_mrope": False}, off=[NO_BIAS], dtype="float32"
    ),
    "qwen2_tied": model(
        QWEN2 | old() | {"use_sliding_window": True, "tie_word_embeddings": True},
        off=[NO_BIAS, {"use_sliding_window": False}, {"max_window_layers": 0}],
    ),
    "qwen3": model(QWEN3 | old(theta=1000000.0) | {"tie_word_embeddings": False}, off=[NO_QK_NORM]),
    "qwen3_yarn": model(
        QWEN3 | old(theta=1000.0, scaling={"rope_type": "yarn", **YARN}) | {"tie_word_embeddings": True}, off=[NO_YARN]
    ),
    "gemma2": model(
        GEMMA2 | old(),
        off=[
            {"attn_logit_softcapping": None},
            {"final_logit_softcapping": None},
            {"sliding_window": 128},
            {"query_pre_attn_scalar": 16},
        ],
        **GEMMA,
    ),
    "gemma3_text": model(
        GEMMA3_TEXT | old(theta=1000.0, scaling=LINEAR) | {"rope_local_base_freq": 100.0, "sliding_window_pattern": 3},
        off=[
            {"sliding_window": 128},
            {"sliding_window_pattern": 2},
            {"rope_scaling": None},
            {"rope_local_base_freq": 1000.0},
            {"query_pre_attn_scalar": 16},
            {r"weights: [qk]_norm": 0.0},
        ],
        **GEMMA,
    ),
    "gemma3_text_new": model(
        GEMMA3_TEXT
        | {"layer_types": alternating(4), "rope_parameters": NEW_GEMMA3_ROPE, "dtype": "float32"}
        | {"_sliding_window_pattern": 2, "use_bidirectional_attention": False, "transformers_version": "5.0.0"},
        off=[{"sliding_window": 128}],
        **GEMMA,
    ),
    "gemma3": model(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 93,
            "eoi_token_index": 94,
            "eos_token_id": [2, 3],
            "image_token_index": 95,
            "initializer_range": 0.02,
            "mm_tokens_per_image": 4,
            "model_type": "gemma3",
            "text_config": {  # what is at its default the hub's files leave out
                "head_dim": 16,
                "hidden_size": 32,
                "intermediate_size": 32,
                "model_type": "gemma3_text",
                "num_attention_heads": 2,
                "num_hidden_layers": 7,
                "num_key_value_heads": 1,
                "rope_scaling": LINEAR,
                "sliding_window": 8,
                "vocab_size": 96,
            },
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0.dev0",
            "vision_config": GEMMA3_VISION,
        },
        off=[
            {"text_config.sliding_window": 128},
            {"text_config.sliding_window_pattern": 2},
            {"text_config.rope_local_base_freq": 1000000.0},
        ],
        **GEMMA,
        std=0.4,
    ),
    "phi3": model(  # as Phi-4-mini
        PHI3
        | old(scaling=longrope())
        | PHI4
        | {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1, "partial_rotary_factor": 0.75}
        | {"sliding_window": 262144, "tie_word_embeddings": True}
        | {"original_max_position_embeddings": 24},
        length=40,
        off=[{"rope_scaling": None}, {"partial_rotary_factor": 1.0, "rope_scaling": longrope(dims=8)}],
    ),
    "phi3_su": model(  # as the first Phi-3-mini-128k: the older name of longrope, which transformers 5 cannot read
        PHI3
        | old(scaling=longrope(dims=4))
        | {"num_key_value_heads": 4, "sliding_window": 12, "tie_word_embeddings": False}
        | {"original_max_position_embeddings": 24},
        length=40,
        off=[{"rope_scaling": None}, {"sliding_window": None}],
        written={"rope_scaling.type": "su"},
    ),
    "phi3_plain": model(  # as Phi-3-mini-4k
        PHI3
        | old()
        | {"sliding_window": 9, "original_max_position_embeddings": 128, "tie_word_embeddings": False},
        off=[{"sliding_window": None}],
    ),
    "lfm2": model(LFM2, off=[{r"weights: \.conv\.conv\.": 0.3}], length=24),
    "lfm2_bias": model(
        head("Lfm2ForCausalLM", "lfm2", pad_token_id=0)
        | {"block_auto_adjust_ff_dim": False, "conv_L_cache": 4, "conv_bias": True, "dtype": "float32"}
        | {"hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48, "max_position_embeddings": 128}
        | {"layer_types": ["conv", "full_attention"], "norm_eps": 1e-5, "num_attention_heads": 4}
        | {"num_hidden_layers": 2, "num_key_value_heads": 2, "tie_word_embeddings": False, "use_cache": True}
        | {"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"}, "vocab_size": 96},
        off=[NO_BIAS],
        length=24,
        dtype="float32",
    ),
    "smollm3": model(SMOLLM3, off=[{"no_rope_layers": [1, 1, 1, 1]}, {"no_rope_layers": [0, 0, 0, 0]}]),
    "olmo2": model(OLMO2, off=[NO_QK_NORM], dtype="float32", length=24),
    "granite": model(
        GRANITE,
        off=[
            {"attention_multiplier": 8**-0.5},
            {"embedding_multiplier": 1.0},
            {"logits_scaling": 1.0},
            {"residual_multiplier": 1.0},
        ],
        std=0.3,
    ),
    "mixtral": model(MIXTRAL, off=[{"num_experts_per_tok": 1}, {r"weights: mlp\.gate": 0.0}]),
    "mixtral_window": model(
        MIXTRAL | {"sliding_window": 8, "tie_word_embeddings": True, "num_local_experts": 3},
        off=[{"sliding_window": None}],
    ),
    "qwen3_moe": model(
        QWEN3_MOE | {"mlp_only_layers": [1]}, off=[{"norm_topk_prob": False}, {"num_experts_per_tok": 1}]
    ),
    "qwen3_moe_sparse": model(
        QWEN3_MOE | {"decoder_sparse_step": 2, "norm_topk_prob": False, "tie_word_embeddings": True},
        off=[{"norm_topk_prob": True}],
    ),
    "gpt_oss": model(
        GPT_OSS | {"torch_dtype": "bfloat16"},
        off=[
            {"sliding_window": 128},
            {"rope_scaling": None},
            {"swiglu_limit": 100.0},
            {"weights: sinks": -1e4},
            {"weights: router.bias": 0.0},
            {"weights: _bias": 0.0},
        ],
    ),
    "gpt_oss_mxfp4": model(
        GPT_OSS | {"quantization_config": MXFP4, "intermediate_size": 64},
        off=[{"sliding_window": 128}, {"swiglu_limit": 100.0}],
    ),
    "qwen3_5": model(
        qwen3_5("Qwen3_5ForConditionalGeneration", "qwen3_5", False),
        length=80,
        off=[{r"weights: conv1d": 0.5}, {r"weights: dt_bias": 0.0}, {r"weights: A_log": -9.0}],
        **GEMMA,
    ),
    "qwen3_5_text": model(
        head("Qwen3_5ForCausalLM", "qwen3_5_text")
        | qwen3_5_text("qwen3_5_text", tie_word_embeddings=True),
        length=72,
        seed=2,
        off=[{r"weights: A_log": -9.0}],
        **GEMMA,
    ),
    "qwen3_5_moe": model(
        qwen3_5("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", True, **EXPERTS),
        length=40,
        off=[{r"weights: shared_expert\.": 0.0}, {r"weights: shared_expert_gate": 0.0}],
        **GEMMA,
    ),
    "qwen3_5_moe_text": model(  # as transformers 5 saves it: experts one by one
        head("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text")
        | qwen3_5_text("qwen3_5_moe_text", tie_word_embeddings=False, **EXPERTS),
        off=[{r"weights: shared_expert\.": 0.0}],
        **GEMMA,
    ),
}
