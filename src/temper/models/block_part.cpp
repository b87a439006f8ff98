#include "temper/models/block_part.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "temper/nn/fused.h"
#include "temper/nn/gpu_kernels.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;

mx::array norm_weight(const DecoderSpec& spec, const ForwardContext& context, const std::string& name,
                      mx::Dtype dtype) {
  const auto& weight = context.params.at(name + ".weight");
  return mx::astype(spec.norm_plus_one ? mx::astype(weight, mx::float32) + mx::array(1.0F) : weight, dtype);
}

// The block's parameters: trained ones of these layers, and all others.
std::pair<Params, Params> own_parameters(const ForwardContext& context, const std::string& prefix,
                                         const std::vector<std::string>& layers) {
  Params trained;
  for (const auto& layer : layers) {
    trained.merge(context.params.with_prefix(layer + "."));
  }
  std::erase_if(trained, [&](const auto& entry) { return !context.trained->contains(entry.first); });
  auto frozen = context.params.with_prefix(prefix);
  std::erase_if(frozen, [&](const auto& entry) { return context.trained->contains(entry.first); });
  return {std::move(trained), std::move(frozen)};
}

} // namespace

mx::array norm(const DecoderSpec& spec, const ForwardContext& context, const std::string& name,
               const mx::array& x) {
  return rms_norm(x, norm_weight(spec, context, name, x.dtype()), spec.norm_eps);
}

mx::array normed(const DecoderSpec& spec, const ForwardContext& context, const std::string& prefix,
                 const std::string& name, const mx::array& x) {
  return name.empty() ? x : norm(spec, context, prefix + name, x);
}

Entry enter(const DecoderSpec& spec, const ForwardContext& context, const std::string& prefix,
            const std::string& name, const mx::array& x) {
  if (name.empty() || !context.trained || context.trained->contains(prefix + name + ".weight") ||
      !gpu::norm_serves(x)) {
    return {x, normed(spec, context, prefix, name, x)};
  }
  const auto [beside, y] =
      gpu::norm_beside(x, norm_weight(spec, context, prefix + name, x.dtype()), spec.norm_eps);
  return {beside, y};
}

Arrays part_of_block(ForwardContext& context, const std::string& prefix, const PartParameters& parameters,
                     const Arrays& in, const BlockPart& part) {
  const auto& layers = parameters.layers;
  const auto num_rows = in[0].size() / static_cast<std::size_t>(in[0].shape(-1));
  if (!std::all_of(layers.begin(), layers.end(),
                   [&](const auto& name) { return has_lean_gradient(context, name, num_rows); })) {
    return part(context, in);
  }
  auto names = layers;
  names.insert(names.end(), parameters.others.begin(), parameters.others.end());
  const auto [trained, frozen] = own_parameters(context, prefix, names);
  const auto next_site = std::make_shared<std::uint32_t>();
  const auto run = [like = trained, rest = std::make_shared<Params>(frozen), part, lora = context.lora,
                    trained_names = context.trained, key = context.dropout_key, site = context.dropout_site,
                    next_site, count = in.size()](const Arrays& inputs, Kept& kept) {
    const auto own = with_values(like, inputs, count);
    ForwardContext inner{ParamView(*rest, &own), lora, key, site};
    inner.trained = trained_names;
    inner.kept = &kept;
    auto out = part(inner, {inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(count)});
    *next_site = inner.dropout_site;
    return out;
  };
  auto inputs = in;
  for (const auto& [name, array] : trained) {
    inputs.push_back(array);
  }
  auto out = partly_recomputed(run, in.size())(inputs);
  context.dropout_site = *next_site;
  return out;
}

AttentionSettings attention_settings(const DecoderSpec& spec, const ForwardContext& context, int layer,
                                     mx::Dtype dtype) {
  AttentionSettings settings;
  settings.scale =
      spec.attention_scale > 0.0F ? spec.attention_scale : 1.0F / std::sqrt(static_cast<float>(spec.head_dim));
  settings.window = spec.layers.at(static_cast<std::size_t>(layer)).window;
  settings.softcap = spec.attention_softcap;
  if (spec.sinks) {
    settings.sinks_H =
        mx::astype(context.params.at(block_prefix(spec, layer) + spec.names.attention + ".sinks"), dtype);
  }
  return settings;
}

} // namespace temper
