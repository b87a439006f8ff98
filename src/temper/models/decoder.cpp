#include "temper/models/decoder.h"

#include <tuple>

#include "temper/models/block.h"
#include "temper/models/few_rows.h"
#include "temper/nn/gpu_decode.h"
#include "temper/nn/gpu_kernels.h"
#include "temper/nn/random.h"

namespace temper {
namespace {

// Places of random draws outside the blocks, whose sites count from 0.
constexpr std::uint32_t kEmbeddingSite = 0xff000000U;
constexpr std::uint32_t kHeadSite = 0xff000001U;
constexpr std::uint32_t kNoiseSite = 0xff000002U;

// Uniform noise of +-alpha / sqrt(length E) on each embedding, with the length of its own text: packed rows
// get what their texts would get alone.
// Source: NEFTune, Jain et al. 2023, arXiv:2310.05914, algorithm 1.
mx::array with_noise(const ForwardContext& context, const DecoderInput& input, const mx::array& x_BTE) {
  if (!context.dropout_key || context.neftune_alpha <= 0) {
    return x_BTE;
  }
  const auto lengths = input.lengths_BT ? mx::astype(*input.lengths_BT, mx::float32)
                                        : mx::array(static_cast<float>(x_BTE.shape(1)));
  const auto bounds = context.neftune_alpha / mx::sqrt(lengths * static_cast<float>(x_BTE.shape(2)));
  const auto noise =
      mx::random::uniform(-1.0F, 1.0F, x_BTE.shape(), mx::float32, fold_in(*context.dropout_key, kNoiseSite)) *
      mx::expand_dims(bounds, -1);
  return x_BTE + mx::astype(noise, x_BTE.dtype());
}

// The block, keeping only its inputs for the backward pass. recomputed() differentiates explicit inputs
// alone, so everything that may need a gradient is one; the rest is captured by value, since the backward
// pass runs after this function's caller has returned.
BlockOutput checkpointed_block(const DecoderSpec& spec, const ForwardContext& context, const PassInput& input,
                               int layer, const mx::array& x, HostStore* store) {
  const auto params = context.params.with_prefix(block_prefix(spec, layer));
  const auto run = [spec, input, layer, params, lora = context.lora, key = context.dropout_key,
                    trained = context.trained](const std::vector<mx::array>& in) {
    const auto own = with_values(params, in, 1);
    ForwardContext inner{ParamView(own), lora, key};
    inner.trained = trained;
    const auto out = block(spec, inner, input, layer, in[0]);
    std::vector<mx::array> arrays{out.x_BTE};
    if (out.load_balance) {
      arrays.push_back(*out.load_balance);
    }
    return arrays;
  };
  std::vector<mx::array> inputs{x};
  for (const auto& [name, array] : params) {
    inputs.push_back(array);
  }
  const bool on_host = store != nullptr && HostStore::takes(x);
  const auto out = (on_host ? recomputed_from_host(run, *store, layer) : recomputed(run))(inputs);
  return {out[0], out.size() > 1 ? std::optional(out[1]) : std::nullopt};
}

mx::array default_positions(const DecoderInput& input) {
  const int offset = input.attention.cache != nullptr ? input.attention.cache->offset() : 0;
  const int width = input.tokens_BT.shape(1);
  return mx::expand_dims(mx::arange(offset, offset + width, 1, mx::int32), 0);
}

// The angles of single tokens at `offsets` (int32 [B], or one for all) by one kernel, where a GPU has it.
std::optional<RopeTable> token_rope_table(const RopeSpec& rope, const mx::array& offsets) {
  RopeTable table{offsets, offsets};
  if (gpu::available()) {
    use_rope_kernel(rope, offsets, table);
  }
  if (!table.periods_K) {
    return std::nullopt;
  }
  std::tie(table.cos_B1TK, table.sin_B1TK) = gpu::token_angles(offsets, *table.periods_K);
  return table;
}

PassInput pass_input(const DecoderSpec& spec, const DecoderInput& input) {
  PassInput pass{
      input.attention, input.positions_BT ? *input.positions_BT : default_positions(input), {}, input.real_BT};
  for (const auto& rope : spec.ropes) {
    const bool is_token = input.offsets_B && input.tokens_BT.shape(1) == 1;
    if (const auto table = is_token ? token_rope_table(rope, *input.offsets_B) : std::nullopt) {
      pass.ropes.push_back(*table);
      continue;
    }
    pass.ropes.push_back(make_rope_table(rope, pass.positions_BT, input.lengths_BT));
    if (input.offsets_B && mx::default_device() == mx::Device::gpu) {
      use_rope_kernel(rope, *input.offsets_B, pass.ropes.back());
    }
  }
  return pass;
}

std::string head_layer(const DecoderSpec& spec) {
  return spec.tied_head ? spec.prefix + "embed_tokens" : spec.head;
}

// The head's adapter, a tied embedding's if it is that.
void add_adapter(const DecoderSpec& spec, const ForwardContext& context, Head& head) {
  const auto& params = context.params;
  const auto name = head_layer(spec);
  const auto* a = params.find(name + ".lora_a");
  if (a == nullptr) {
    return;
  }
  const auto lora = context.lora.of(name);
  const auto& b = params.at(name + ".lora_b");
  const auto pair = pair_of(*a, b, spec.tied_head);
  head.lora_a_ER = pair.a * lora.scale;
  head.lora_b_RV = pair.b;
  head.dropout = lora.dropout;
  if (context.dropout_key) {
    head.dropout_key = fold_in(*context.dropout_key, kHeadSite);
  }
  if (params.find(name + ".m") != nullptr) {
    head.magnitude_V = dora_scale(params, name, pair, lora.scale, head.weight_VE.dtype());
  }
}

} // namespace

mx::Dtype compute_dtype(const DecoderSpec& spec, const ParamView& params) {
  return params.at(spec.prefix + spec.final_norm + ".weight").dtype();
}

DecoderOutput decoder_output(const DecoderSpec& spec, ForwardContext& context, const DecoderInput& input) {
  auto pass = pass_input(spec, input);
  const auto dtype = compute_dtype(spec, context.params);
  context.dropout_site = kEmbeddingSite;
  const auto embedding = spec.prefix + "embed_tokens";
  auto x = with_noise(context, input, embed(context, embedding, input.tokens_BT, spec.hidden_size, dtype));
  if (spec.embedding_scale != 1.0F) {
    x = x * mx::array(spec.embedding_scale, dtype);
  }
  std::vector<mx::array> balances;
  auto midway = x;
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    if (layer == spec.num_layers / 2) {
      midway = x;
    }
    pass.recomputed = input.checkpoint.covers(layer);
    const auto out = pass.recomputed ? checkpointed_block(spec, context, pass, layer, x, input.host_store)
                                     : block(spec, context, pass, layer, x);
    x = out.x_BTE;
    if (out.load_balance) {
      balances.push_back(*out.load_balance);
    }
  }
  if (input.attention.cache != nullptr) {
    input.attention.cache->advance(input.tokens_BT.shape(1));
  }
  std::optional<mx::array> balance;
  if (!balances.empty()) {
    balance = mx::mean(mx::stack(balances));
  }
  return {norm(spec, context, spec.prefix + spec.final_norm, x), balance, midway};
}

mx::array decoder_hidden(const DecoderSpec& spec, ForwardContext& context, const DecoderInput& input) {
  return decoder_output(spec, context, input).hidden_BTE;
}

std::string head_weight_name(const DecoderSpec& spec) {
  return head_layer(spec) + ".weight";
}

Head decoder_head(const DecoderSpec& spec, const ForwardContext& context, bool trainable) {
  const auto dtype = compute_dtype(spec, context.params);
  Head head{.weight_VE = dense_weight(context.params, head_layer(spec), spec.hidden_size, dtype)};
  head.trainable = trainable;
  add_adapter(spec, context, head);
  head.logit_scale = spec.logit_scale;
  head.softcap = spec.logit_softcap;
  return head;
}

mx::array decoder_logits(const DecoderSpec& spec, const ForwardContext& context, const mx::array& hidden) {
  const auto head = decoder_head(spec, context);
  const auto packed = packed_weight(context.params, head_layer(spec), spec.hidden_size);
  return head_logits(
      head, hidden,
      packed ? std::optional(packed_matmul(hidden, *packed)) : few_rows_product(hidden, head.weight_VE));
}

} // namespace temper
