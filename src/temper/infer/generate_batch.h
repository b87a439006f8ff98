// Many prompts answered at once: as answers end, waiting prompts take their places while the others go on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "temper/infer/generate.h"

namespace temper {

struct BatchPrompt {
  std::vector<std::int32_t> tokens;
  std::uint64_t text = 0; // which of the run's texts it is: what it draws depends on the seed and this
  int max_tokens = 0;     // of its answer; 0: the options'
};

// What a batch took, all rows together.
struct BatchSpeed {
  std::int64_t prompt_tokens = 0;
  std::int64_t reused_tokens = 0; // of the prompts', read once for several of them
  std::int64_t tokens = 0;        // generated
  double prompt_seconds = 0;      // reading prompts
  double seconds = 0;             // in all

  // Prompt tokens read a second of reading; tokens a second of the rest. 0 where there is no time.
  double prompt_tokens_per_second() const;
  double tokens_per_second() const;
};

using AnswerCallback = std::function<void(std::size_t index, const GenerationResult& answer)>;

// The answers to `prompts`, in their order, `options.batch_size` at a time. Greedy answers are those of
// Generator, up to the order in which sums are rounded; sampled ones depend on seed and text alone, whatever
// runs beside them. `on_answer` is called as each is finished. After a cancellation, unfinished ones say so.
// `speed`, if there, is filled as it goes. Throws as Generator::generate() does.
std::vector<GenerationResult> answer_prompts(const ModelView& model,
                                             const std::shared_ptr<const Tokenizer>& tokenizer,
                                             const std::vector<BatchPrompt>& prompts,
                                             const GenerationOptions& options,
                                             const AnswerCallback& on_answer = nullptr,
                                             BatchSpeed* speed = nullptr);

// The same for prompts that are texts 0, 1, 2 ...
std::vector<GenerationResult> generate_batch(const ModelView& model,
                                             const std::shared_ptr<const Tokenizer>& tokenizer,
                                             const std::vector<std::vector<std::int32_t>>& prompts,
                                             const GenerationOptions& options,
                                             const AnswerCallback& on_answer = nullptr);

// The order in which prompts are taken up: those that begin alike follow each other, long ones first, so that
// what runs together wastes little on padding and a lack of memory shows at once. Groups of equal beginning
// end where `ends` is true.
struct BatchOrder {
  std::vector<std::size_t> indices;
  std::vector<bool> ends; // whether the next one begins otherwise
};
BatchOrder batch_order(const std::vector<BatchPrompt>& prompts, int batch_size);

} // namespace temper
