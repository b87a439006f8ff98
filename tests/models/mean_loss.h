// A model's logits, and its loss as the golden fixtures define it.
#pragma once

#include "temper/io/model_folder.h"
#include "temper/models/decoder.h"
#include "temper/nn/loss.h"

namespace temper::test {

inline mx::array logits(const Model& model, const mx::array& tokens) {
  ForwardContext context{ParamView(model.params), {}, {}};
  return decoder_logits(model.spec, context, decoder_hidden(model.spec, context, {.tokens_BT = tokens}));
}

// Mean next-token loss of every position but each row's last. The model sees whole rows: dynamic rope depends
// on their length.
inline mx::array mean_loss(const DecoderSpec& spec, const ParamView& params, const mx::array& tokens,
                           bool checkpoint) {
  ForwardContext context{params, {}, {}};
  const auto hidden = decoder_hidden(spec, context, {.tokens_BT = tokens, .checkpoint = checkpoint});
  const int rows = tokens.shape(0);
  const int width = tokens.shape(1);
  const int count = rows * (width - 1);
  const auto places = mx::reshape(mx::arange(0, rows * width, 1, mx::int32), {rows, width});
  const LossTargets targets{mx::flatten(mx::slice(places, {0, 0}, {rows, width - 1})),
                            mx::flatten(mx::slice(tokens, {0, 1}, {rows, width})),
                            mx::full({count}, 1.0F / static_cast<float>(count), mx::float32)};
  return chunked_cross_entropy(mx::flatten(hidden, 0, 1), decoder_head(spec, context, true), targets, 16);
}

} // namespace temper::test
