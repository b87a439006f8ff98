#include "temper/infer/batch_input.h"

#include <filesystem>

#include "nn/support.h"
#include "temper/base/error.h"
#include "temper/data/loader.h"
#include "temper/io/model_folder.h"

using namespace temper;
using namespace temper::test;

namespace {

const std::filesystem::path kFixtures = std::filesystem::path(TEMPER_TEST_DATA) / "llama";

// The host kernels run on a CPU alone.
std::vector<PackedAttention> attentions() {
  std::vector<PackedAttention> all{PackedAttention::dense_mask, PackedAttention::documents,
                                   PackedAttention::spans};
  if (mx::default_device() == mx::Device::cpu) {
    all.push_back(PackedAttention::host);
  }
  return all;
}

// Uneven examples of a model's vocabulary, prompts unsupervised.
std::shared_ptr<const TokenDataset> examples(const std::vector<int>& lengths) {
  std::vector<Example> made;
  int token = 5;
  for (const int length : lengths) {
    Example example;
    for (int i = 0; i < length; ++i) {
      token = (token * 31 + 7) % 120 + 3;
      example.tokens.push_back(token);
      example.supervised.push_back(i >= length / 3 ? 1 : 0);
    }
    made.push_back(example);
  }
  return make_token_dataset(made);
}

HostBatch batch_of(const std::vector<int>& lengths, bool packing) {
  LoaderOptions options;
  options.batch_size = static_cast<int>(lengths.size());
  options.max_seq_length = 64;
  options.packing = packing;
  options.width_multiple = 16;
  options.shuffle = false;
  options.prefetch = 0;
  return BatchLoader(examples(lengths), options).next();
}

float weight_of(const HostBatch& batch) {
  return 1.0F / static_cast<float>(batch.num_supervised);
}

std::pair<float, Arrays> loss_and_gradients(const Model& model, const HostBatch& batch,
                                            PackedAttention attention) {
  const auto layout = to_arrays(batch, model.spec, weight_of(batch), attention);
  const auto device = as_device_batch(layout, layout.words);
  const auto loss_of = [&](const Arrays& in) {
    const auto params = with_values(model.params, in);
    ForwardContext context{ParamView(params), {}, {}};
    const auto hidden = decoder_hidden(model.spec, context, device.input);
    return chunked_cross_entropy(mx::flatten(hidden, 0, 1), decoder_head(model.spec, context, true),
                                 device.targets, 32);
  };
  std::vector<int> all(model.params.size());
  std::iota(all.begin(), all.end(), 0);
  auto [loss, gradients] = mx::value_and_grad(Function(loss_of), all)(values(model.params));
  mx::eval(gradients);
  return {loss.item<float>(), gradients};
}

} // namespace

TEST_CASE("rule 9: packed and unpacked losses and gradients agree in every family") {
  const std::vector<int> lengths{40, 7, 22, 2, 13, 31};
  const auto padded = batch_of(lengths, false);
  const auto packed = batch_of(lengths, true);
  REQUIRE_FALSE(padded.packed);
  REQUIRE(packed.packed);
  REQUIRE(packed.rows < padded.rows);
  REQUIRE(packed.num_supervised == padded.num_supervised);
  // Window, biases and a rope that depends on the text's length.
  for (const std::string name : {"llama32", "mistral", "biases", "dynamic"}) {
    CAPTURE(name);
    const auto model = load_model(kFixtures / name, "float32");
    const auto [loss, gradients] = loss_and_gradients(model, padded, PackedAttention::dense_mask);
    for (const auto attention : attentions()) {
      CAPTURE(attention);
      const auto [packed_loss, packed_gradients] = loss_and_gradients(model, packed, attention);
      CHECK(packed_loss == doctest::Approx(loss).epsilon(1e-5));
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        CHECK(relative_difference(packed_gradients[i], gradients[i]) < 1e-4F);
      }
    }
  }
}

TEST_CASE("rule 2: padding is never a target, whatever the layout") {
  for (const bool packing : {false, true}) {
    const auto batch = batch_of({9, 4, 6}, packing);
    const auto layout = to_arrays(batch, load_spec(kFixtures / "llama2"), 0.25F, PackedAttention::documents);
    auto targets = as_device_batch(layout, layout.words).targets;
    mx::eval(targets.positions_S, targets.targets_S, targets.weights_S);
    CHECK(targets.targets_S.shape(0) == 64);
    int counted = 0;
    for (int s = 0; s < 64; ++s) {
      if (targets.weights_S.data<float>()[s] == 0.0F) {
        CHECK(s >= batch.num_supervised);
        continue;
      }
      CHECK(targets.weights_S.data<float>()[s] == 0.25F);
      const auto place = static_cast<std::size_t>(targets.positions_S.data<int>()[s]);
      CHECK(batch.supervised[place] == 1);
      CHECK(batch.segments[place] >= 0);
      CHECK(targets.targets_S.data<int>()[s] == batch.targets[place]);
      ++counted;
    }
    CHECK(counted == batch.num_supervised);
  }
}

TEST_CASE("batches of the same arrays share a shape key; others do not") {
  const auto spec = load_spec(kFixtures / "llama2");
  const auto key = [&](const std::vector<int>& lengths, bool packing, PackedAttention attention) {
    return to_arrays(batch_of(lengths, packing), spec, 1.0F, attention).shape_key();
  };
  const auto dense = PackedAttention::dense_mask;
  const auto documents = PackedAttention::documents;
  CHECK(key({9, 4, 6}, true, dense) == key({8, 5, 6}, true, dense));
  CHECK(key({9, 4, 6}, true, documents) == key({8, 5, 6}, true, documents));
  CHECK(key({9, 4, 6}, true, dense) != key({9, 4, 6}, true, documents));
  CHECK(key({9, 4, 6}, true, dense) != key({9, 4, 6}, false, dense));
  CHECK(key({9, 4, 6}, false, dense) == key({9, 4, 6}, false, documents)); // rows are rows
  CHECK(key({9, 4, 6}, false, dense) != key({40, 4, 6}, false, dense));
}

TEST_CASE("spans are each token's document, and padding is by itself") {
  LoaderOptions compat;
  compat.batch_size = 3;
  compat.max_seq_length = 64;
  compat.compat_mlx_lm = true;
  compat.shuffle = false;
  compat.prefetch = 0;
  auto rows = BatchLoader(examples({9, 4, 6}), compat).next();
  rows.packed = true; // as if: rows that are one document each have no spans of their own
  for (const auto& batch : {batch_of({9, 4, 6, 20, 33, 3}, true), rows}) {
    const auto layout = to_arrays(batch, load_spec(kFixtures / "llama2"), 1.0F, PackedAttention::spans);
    auto spans = *as_device_batch(layout, layout.words).input.attention.spans_2N;
    mx::eval(spans);
    const auto count = batch.segments.size();
    REQUIRE(spans.shape() == mx::Shape{2, static_cast<int>(count)});
    const int* first = spans.data<int>();
    const int* end = first + count;
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t j = 0; j < count; ++j) {
        const auto at = static_cast<int>(j);
        const bool same = batch.segments[i] < 0 ? i == j
                                                : batch.segments[i] == batch.segments[j] &&
                                                      i / static_cast<std::size_t>(batch.width) ==
                                                          j / static_cast<std::size_t>(batch.width);
        REQUIRE((first[i] <= at && at < end[i]) == same);
      }
      CHECK((i == 0 || (first[i - 1] <= first[i] && end[i - 1] <= end[i])));
    }
  }
  const auto layout =
      to_arrays(batch_of({9, 4, 6}, false), load_spec(kFixtures / "llama2"), 1.0F, PackedAttention::spans);
  CHECK_FALSE(as_device_batch(layout, layout.words).input.attention.spans_2N.has_value());
}

TEST_CASE("only dynamic rope is given the documents' lengths") {
  const auto batch = batch_of({9, 4, 6}, true);
  CHECK_FALSE(to_arrays(batch, load_spec(kFixtures / "llama2"), 1.0F, PackedAttention::dense_mask).has_lengths);
  const auto layout = to_arrays(batch, load_spec(kFixtures / "dynamic"), 1.0F, PackedAttention::dense_mask);
  CHECK(layout.has_lengths);
  auto lengths = *as_device_batch(layout, layout.words).input.lengths_BT;
  mx::eval(lengths);
  for (std::size_t i = 0; i < batch.segments.size(); ++i) {
    const auto segment = batch.segments[i];
    CHECK(lengths.data<int>()[i] ==
          (segment < 0 ? 1 : batch.documents[static_cast<std::size_t>(segment)].length));
  }
}

TEST_CASE("an empty batch is refused") {
  CHECK_THROWS_AS(to_arrays(HostBatch{}, load_spec(kFixtures / "llama2"), 1.0F, PackedAttention::dense_mask),
                  DataError);
}
