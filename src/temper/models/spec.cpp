#include "temper/models/spec.h"

#include <algorithm>

namespace temper {

bool depends_on_length(const DecoderSpec& spec) {
  return std::any_of(spec.ropes.begin(), spec.ropes.end(), [](const auto& r) { return depends_on_length(r); });
}

int rope_stage(const DecoderSpec& spec, int length) {
  int stage = 0;
  for (const auto& rope : spec.ropes) {
    stage = std::max(stage, rope_stage(rope, length));
  }
  return stage;
}

bool is_recurrent(const DecoderSpec& spec) {
  return std::any_of(spec.layers.begin(), spec.layers.end(),
                     [](const auto& layer) { return layer.mixer != Mixer::attention; });
}

} // namespace temper
