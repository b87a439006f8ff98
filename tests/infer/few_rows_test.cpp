// Texts of every family that grow by the GPU's kernels for few rows, beside the same texts without them.
// Without a CUDA device there is nothing to compare.
#include "models/families.h"
#include "nn/gpu_support.h"
#include "temper/infer/kv_cache.h"

using namespace temper;
using namespace temper::test;

namespace {

// Logits of the last tokens of texts, `rows` of them: all but the last five are read at once.
std::vector<mx::array> logits(const Model& model, int rows, bool kernels) {
  constexpr int kSteps = 5;
  gpu::set_kernels(kernels);
  KvCache cache(model.spec);
  const ParamView params(model.params);
  std::vector<mx::array> found;
  const auto pass = [&](int begin, int end) {
    std::vector<std::int32_t> tokens;
    for (int row = 0; row < rows; ++row) {
      const auto text = family_tokens(20, row + 1);
      tokens.insert(tokens.end(), text.begin() + begin, text.begin() + end);
    }
    DecoderInput input{.tokens_BT = mx::array(tokens.data(), {rows, end - begin}, mx::int32)};
    input.attention.cache = &cache;
    input.offsets_B = mx::array(begin);
    ForwardContext context{params, {}, std::nullopt};
    const auto hidden = decoder_hidden(model.spec, context, input);
    found.push_back(mx::astype(decoder_logits(model.spec, context, hidden), mx::float32));
    mx::eval(found.back());
  };
  pass(0, 20 - kSteps);
  for (int at = 20 - kSteps; at < 20; ++at) {
    pass(at, at + 1);
  }
  gpu::set_kernels(true);
  return found;
}

} // namespace

TEST_CASE("a text's next tokens by the kernels for few rows are those of plain operations") {
  if (no_gpu()) {
    return;
  }
  for (const auto& name : family_names()) {
    const auto model = load_model(kFamilyFixtures / name, "bfloat16");
    for (const int rows : {1, 3}) {
      CAPTURE(name);
      CAPTURE(rows);
      const auto expected = logits(model, rows, false);
      const auto found = logits(model, rows, true);
      std::size_t num_far = 0;
      for (std::size_t i = 0; i < found.size(); ++i) {
        num_far += relative_difference(found[i], expected[i]) < 0.06F ? 0 : 1;
      }
      // Roundings choose other experts where two are nearly alike.
      CHECK(num_far <= (model.spec.moe.num_experts > 0 ? found.size() / 2 : 0));
    }
  }
}
