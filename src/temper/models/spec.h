// What a decoder-only family is, as data. A family's file turns a Hugging Face config.json into this; one
// decoder (decoder.h) runs them all.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "temper/nn/activation.h"
#include "temper/nn/moe.h"
#include "temper/nn/rope.h"

namespace temper {

// What lets a layer's tokens see each other.
enum class Mixer {
  attention,
  short_conv,  // LFM2: gated causal convolution over a few tokens
  gated_delta, // Qwen3.5: linear attention with a state (nn/gated_delta.h)
};

enum class QkNorm {
  none,
  head, // each head's features
  full, // all heads' features at once, before they are split (OLMo 2)
};

constexpr int kNoRope = -1;

struct LayerSpec {
  Mixer mixer = Mixer::attention;
  int window = 0; // keys that a query sees, its own included; 0: all before it
  int rope = 0;   // index into DecoderSpec::ropes, or kNoRope
  bool moe = false;
};

// mlx-lm's names within a block. A norm without a name does not exist.
struct BlockNames {
  std::string attention = "self_attn";
  std::string output = "o_proj";
  std::string q_norm = "q_norm";
  std::string k_norm = "k_norm";
  std::string mlp = "mlp";
  std::string gate = "gate_proj";
  std::string up = "up_proj";
  std::string down = "down_proj";
  std::string mixer_norm = "input_layernorm"; // before attention (or what stands for it)
  std::string mixer_post_norm = "";           // on its output
  std::string mlp_norm = "post_attention_layernorm";
  std::string mlp_post_norm = "";
};

struct MoeSpec {
  int num_experts = 0;
  int intermediate_size = 0;
  int shared_intermediate_size = 0; // an expert that every token visits, behind a gate of its own; 0: none
  RoutingSpec routing;
  bool bias = false; // on the router and the experts
  std::string mlp = "mlp";
  std::string router = "gate";
  std::string experts = "switch_mlp";
};

struct ShortConvSpec {
  int taps = 0; // tokens that a token's value mixes, its own included
  bool bias = false;
};

struct GatedDeltaSpec {
  int num_key_heads = 0;
  int num_value_heads = 0;
  int key_dim = 0; // of a head
  int value_dim = 0;
  int taps = 0; // of the convolution before it
};

struct DecoderSpec {
  std::string model_type; // as config.json says it
  int vocab_size = 0;     // rows of the embedding; padded ones included
  int hidden_size = 0;
  int num_layers = 0;
  int intermediate_size = 0;
  std::vector<LayerSpec> layers; // [num_layers]

  std::string prefix = "model."; // of "embed_tokens", "layers.0" and the final norm
  std::string head = "lm_head";
  std::string final_norm = "norm";
  BlockNames names;
  bool tied_head = false; // the embedding is the head

  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  std::vector<RopeSpec> ropes;
  float attention_scale = 0.0F;   // of q k^T; 0: 1 / sqrt(head_dim)
  float attention_softcap = 0.0F; // scores s become softcap tanh(s / softcap); 0: none
  QkNorm qk_norm = QkNorm::none;
  bool attention_bias = false;  // on q, k, v
  bool output_bias = false;     // on o
  bool fused_qkv = false;       // one linear layer "qkv_proj"
  bool gated_attention = false; // q_proj also gives a gate a head, whose sigmoid scales the output
  bool sinks = false;           // a learned logit a head that takes part in the softmax and carries no value

  float norm_eps = 1e-5F;
  bool norm_plus_one = false; // norms multiply by 1 + weight

  Activation activation = Activation::silu;
  float activation_limit = 7.0F; // of clamped_swiglu
  bool mlp_bias = false;
  bool fused_gate_up = false; // one linear layer "gate_up_proj"
  MoeSpec moe;
  ShortConvSpec conv;
  GatedDeltaSpec delta;

  float embedding_scale = 1.0F;
  float residual_scale = 1.0F; // on what a block adds
  float logit_scale = 1.0F;
  float logit_softcap = 0.0F; // as attention_softcap, on the logits
};

// Whether a rope of the model turns tokens by an angle that depends on their text's length.
bool depends_on_length(const DecoderSpec& spec);

// What of `length` the ropes depend on: keys kept from a pass with another stage are out of date.
int rope_stage(const DecoderSpec& spec, int length);

// Whether some layer carries a state that cannot be cut back to an earlier token (convolution, delta rule).
bool is_recurrent(const DecoderSpec& spec);

} // namespace temper
