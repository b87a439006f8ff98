#include "temper/models/block.h"

#include "temper/models/feed_forward.h"
#include "temper/models/few_rows.h"
#include "temper/models/mixers.h"

namespace temper {
namespace {

constexpr std::uint32_t kSitesPerBlock = 16; // more than a block has layers that draw a key

} // namespace

BlockOutput block(const DecoderSpec& spec, ForwardContext& context, const PassInput& input, int layer,
                  const mx::array& x) {
  const auto prefix = block_prefix(spec, layer);
  const auto& names = spec.names;
  const auto added = [&](const mx::array& stream, const mx::array& y) {
    return spec.residual_scale == 1.0F ? stream + y : stream + y * mx::array(spec.residual_scale, y.dtype());
  };
  context.dropout_site = static_cast<std::uint32_t>(layer) * kSitesPerBlock;

  const auto after_mixer = [&] {
    if (const auto few = few_rows_mixer(spec, context, input, layer, x)) {
      return *few;
    }
    const auto mixed = mixer(spec, context, input, layer, x);
    return added(mixed.x, normed(spec, context, prefix, names.mixer_post_norm, mixed.y));
  };
  const auto h = after_mixer();
  if (const auto few = few_rows_ffn(spec, context, input, layer, h)) {
    return {*few, {}};
  }

  const auto leave = [&](const mx::array& stream, const mx::array& y) {
    return added(stream, normed(spec, context, prefix, names.mlp_post_norm, y));
  };
  if (spec.layers.at(static_cast<std::size_t>(layer)).moe) {
    const auto experts = expert_ffn(spec, context, input, layer, h);
    return {leave(experts.half.x, experts.half.y), experts.load_balance};
  }
  const auto ffn = dense_ffn(spec, context, layer, h);
  return {leave(ffn.x, ffn.y), {}};
}

} // namespace temper
