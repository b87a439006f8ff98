// What llama.cpp calls the families, their tensors and their settings: the table behind the GGUF export.
// Names and shapes as llama.cpp's loader wants them (llama-arch.cpp, models/*.cpp of its source, MIT).
// Dims: H heads, D head_dim, O, I a weight's out and in features, X experts; G key and V value heads of a delta
// net.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "temper/io/gguf.h"
#include "temper/models/spec.h"
#include "temper/nn/params.h"

namespace temper {

// An architecture of llama.cpp, and what of a spec it computes.
struct GgufArch {
  const char* name = ""; // general.architecture
  std::vector<std::string> model_types = {};
  bool rotates_neighbours = false; // rope turns features 2k and 2k + 1; ours turns k and k + D / 2
  bool needs_head = false;         // output.weight must be there, also where the embedding is the head
  bool tied_only = false;          // there is no output.weight
  bool square = false;             // H D must be hidden_size
  bool output_bias = false;
  bool mlp_bias = false;
  bool windows = false;
  bool window_keys = false;  // written for Temper and those who read them: llama.cpp passes over them there
  bool rope_factors = false; // llama3's stretching, as factors in a tensor
  bool longrope = false;
  bool scales = false; // embedding, residual, attention and logit scales
  bool delta = false;  // Qwen3.5's delta nets and gated attention
  const char* final_norm = "output_norm";
  const char* mlp_norm = "ffn_norm";
};

// The architecture that runs `spec`. Throws ModelError, with `origin` (the model's name), if llama.cpp has none
// or its architecture lacks something that the spec asks for.
const GgufArch& find_gguf_arch(const DecoderSpec& spec, const std::string& origin);

// What llama.cpp leaves out without harm to short texts: a sentence each, for the user.
std::vector<std::string> gguf_notes(const DecoderSpec& spec, const GgufArch& arch);

// Our names and theirs of every tensor that the spec expects, in the file's order: "model.layers.0.self_attn.
// q_proj.weight" and "blk.0.attn_q.weight".
std::vector<std::pair<std::string, std::string>> gguf_tensor_names(const DecoderSpec& spec,
                                                                   const GgufArch& arch);

// Whether the rows of `tensor` (ours) are ordered otherwise in a file of `arch`: those of q and k, where rope
// turns neighbours.
bool is_permuted(const DecoderSpec& spec, const GgufArch& arch, const std::string& tensor);

// [H D, ...] with each head's rows k, k + D / 2 side by side; and the inverse. Lazy.
mx::array interleave_heads(const mx::array& rows, int head_dim);
mx::array separate_heads(const mx::array& rows, int head_dim);

// Where the value heads lie in a tensor (ours, or a part of it) of a delta net: along `axis` (0, or -1: the
// last) from `begin` on. llama.cpp's value head h reads key head h % G, ours h / (V / G).
struct ValueHeads {
  int axis = 0;
  int begin = 0;
};
std::optional<ValueHeads> value_heads(const DecoderSpec& spec, const std::string& tensor);

// Value heads in llama.cpp's order; and the inverse. Throws ModelError if blocks of weights span heads. Lazy.
mx::array tile_value_heads(const DecoderSpec& spec, const ValueHeads& where, const mx::array& array);
mx::array group_value_heads(const DecoderSpec& spec, const ValueHeads& where, const mx::array& array);

// A parameter (ours, dense) as the file has it: rows and heads in order, norms with their 1, decays as rates,
// scales that llama.cpp fixes folded in; fp32 or as stored. Lazy.
mx::array to_gguf_tensor(const DecoderSpec& spec, const GgufArch& arch, const std::string& name,
                         const mx::array& array);

// The tensors that hold rope's factors: "rope_freqs.weight", "rope_factors_long.weight" ...; fp32.
std::vector<std::pair<std::string, std::vector<float>>> rope_tensors(const DecoderSpec& spec);

// The architecture's settings: "<arch>.block_count" and so on, rope's among them.
GgufMetadata gguf_hparams(const DecoderSpec& spec, const GgufArch& arch);

} // namespace temper
