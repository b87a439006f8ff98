#include "temper/data/loader.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <limits>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "temper/base/error.h"
#include "temper/data/collate.h"
#include "temper/data/epoch_plan.h"
#include "temper/data/split_batch.h"

namespace temper {
namespace {

void check_options(const LoaderOptions& options) {
  if (options.batch_size < 1 || options.batch_tokens < 0 || options.max_seq_length < 2 ||
      options.width_multiple < 1 || options.pack_width < 0 || options.prefetch < 0) {
    throw ConfigError(
        "loader options: batch_size and width_multiple must be at least 1, max_seq_length at least 2, "
        "batch_tokens, pack_width and prefetch not negative");
  }
}

void check_data(const TokenDataset& data, const LoaderOptions& options) {
  if (data.size() == 0) {
    throw DataError("the data set has no examples");
  }
  if (data.size() > std::numeric_limits<std::uint32_t>::max()) {
    throw DataError("the data set has more than 4294967295 examples; split it");
  }
  if (options.compat_mlx_lm) {
    if (data.size() < static_cast<std::size_t>(options.batch_size)) {
      throw DataError("the data set has " + std::to_string(data.size()) + " examples, fewer than batch_size " +
                      std::to_string(options.batch_size) + ", which compat: mlx-lm does not allow");
    }
  }
  const std::size_t shortest = options.compat_mlx_lm ? 1 : 2;
  const std::size_t longest = options.compat_mlx_lm ? std::numeric_limits<std::size_t>::max()
                                                    : static_cast<std::size_t>(options.max_seq_length);
  for (std::size_t i = 0; i < data.size(); ++i) {
    const auto length = data.length(i);
    if (length < shortest || length > longest) {
      throw DataError("example " + std::to_string(i) + " has " + std::to_string(length) +
                      " tokens; an example needs 2 to max_seq_length " +
                      std::to_string(options.max_seq_length));
    }
  }
}

std::uint32_t mlx_lm_batches(const TokenDataset& data, const LoaderOptions& options) {
  return static_cast<std::uint32_t>(data.size() / static_cast<std::size_t>(options.batch_size));
}

struct Made {
  HostBatch batch;
  DataCursor after;
  std::size_t batches = 0; // in the pass that `after` is in, as far as it is known
};

// Makes batches one after another, in the caller's thread.
class Producer {
 public:
  Producer(std::shared_ptr<const TokenDataset> data, LoaderOptions options, DataCursor start)
      : data_(std::move(data)), options_(std::move(options)), cursor_(start) {
    check_options(options_);
    check_data(*data_, options_);
    if (options_.compat_mlx_lm) {
      resume_mlx_lm();
    } else {
      plan_ = plan(cursor_.epoch);
    }
    if (plan_ && cursor_.batch > 0 && cursor_.batch >= plan_->size()) {
      throw CheckpointError("the data cursor stands at batch " + std::to_string(cursor_.batch) +
                            " of a pass of " + std::to_string(plan_->size()) +
                            "; the data or the batch size has changed since the checkpoint");
    }
    batches_per_epoch_ = cursor_.epoch == 0 && plan_ ? plan_->size() : count_batches();
  }

  Made make() {
    if (!plan_) {
      plan_ = plan(cursor_.epoch);
    }
    const auto examples = (*plan_)[cursor_.batch];
    Made made;
    made.batch = options_.compat_mlx_lm ? collate_mlx_lm(*data_, examples, options_)
                                        : collate(*data_, examples, options_);
    made.batches = plan_->size();
    ++cursor_.batch;
    if (cursor_.batch == plan_->size()) {
      cursor_ = {cursor_.epoch + 1, 0, -1};
      plan_.reset();
    }
    made.after = cursor_;
    return made;
  }

  std::size_t batches_per_epoch() const {
    return batches_per_epoch_;
  }
  std::size_t batches_now() const {
    return plan_ ? plan_->size() : batches_per_epoch_;
  }
  const LoaderOptions& options() const {
    return options_;
  }

 private:
  EpochPlan plan(std::uint64_t epoch) {
    if (options_.compat_mlx_lm) {
      cursor_.draw = static_cast<std::int64_t>(options_.mlx_lm_random->num_draws());
      return plan_mlx_lm(data_->size(), static_cast<std::size_t>(options_.batch_size),
                         options_.mlx_lm_random->permutation(mlx_lm_batches(*data_, options_)));
    }
    auto made = options_.shuffle ? plan_shuffled(*data_, options_, epoch) : plan_in_order(*data_, options_);
    const auto last = made[made.size() - 1].size();
    if (options_.drop_last && options_.batch_tokens <= 0 && made.size() > 1 &&
        last < static_cast<std::size_t>(options_.batch_size)) {
      made.truncate(made.size() - 1);
    }
    return made;
  }

  // A pass that has begun is ordered by a draw of the past; the next pass draws when it begins.
  void resume_mlx_lm() {
    const bool shared = options_.mlx_lm_random != nullptr;
    if (!shared) {
      options_.mlx_lm_random = std::make_shared<MlxLmRandom>(options_.seed);
      for (std::uint64_t i = 0; i < cursor_.epoch + (cursor_.batch > 0 ? 1 : 0); ++i) {
        options_.mlx_lm_random->permutation(mlx_lm_batches(*data_, options_));
      }
    }
    if (cursor_.batch > 0) {
      const auto draw = cursor_.draw >= 0 ? static_cast<std::size_t>(cursor_.draw) : cursor_.epoch;
      const auto permutation = options_.mlx_lm_random->replay(draw);
      if (permutation.size() != mlx_lm_batches(*data_, options_)) {
        throw CheckpointError("the data or the batch size has changed since the checkpoint");
      }
      plan_ = plan_mlx_lm(data_->size(), static_cast<std::size_t>(options_.batch_size), permutation);
    }
  }

  std::size_t count_batches() {
    if (options_.compat_mlx_lm) {
      return mlx_lm_batches(*data_, options_);
    }
    return plan(0).size();
  }

  std::shared_ptr<const TokenDataset> data_;
  LoaderOptions options_;
  DataCursor cursor_;
  std::optional<EpochPlan> plan_; // of the cursor's pass; none until the pass begins
  std::size_t batches_per_epoch_ = 0;
};

// A thread that keeps up to `limit` batches ready.
class Prefetcher {
 public:
  Prefetcher(Producer& producer, std::size_t limit)
      : producer_(producer), limit_(limit), thread_([this] { run(); }) {
  }
  ~Prefetcher() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  Made take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || error_; });
    if (ready_.empty()) {
      std::rethrow_exception(error_);
    }
    Made made = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return made;
  }

 private:
  void run() {
    try {
      while (true) {
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [&] { return stopping_ || ready_.size() < limit_; });
          if (stopping_) {
            return;
          }
        }
        Made made = producer_.make();
        const std::lock_guard lock(mutex_);
        ready_.push_back(std::move(made));
        changed_.notify_all();
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
      changed_.notify_all();
    }
  }

  Producer& producer_;
  const std::size_t limit_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Made> ready_;
  std::exception_ptr error_;
  bool stopping_ = false;
  std::thread thread_; // last: it starts when the rest is there
};

} // namespace

Json DataCursor::to_json() const {
  return {{"epoch", epoch}, {"batch", batch}, {"draw", draw}};
}

DataCursor DataCursor::from_json(const Json& json) {
  try {
    return {json.at("epoch").get<std::uint64_t>(), json.at("batch").get<std::uint64_t>(),
            json.at("draw").get<std::int64_t>()};
  } catch (const Json::exception&) {
    throw CheckpointError("the data cursor is damaged; go on from another checkpoint of the run");
  }
}

struct BatchLoader::Impl {
  Impl(std::shared_ptr<const TokenDataset> data, LoaderOptions options, DataCursor start)
      : producer(std::move(data), std::move(options), start),
        cursor(start),
        batches_now(producer.batches_now()) {
    if (producer.options().prefetch > 0 && !producer.options().compat_mlx_lm) {
      prefetcher.emplace(producer, static_cast<std::size_t>(producer.options().prefetch));
    }
  }

  Producer producer;
  DataCursor cursor;
  std::size_t batches_now; // in the cursor's pass
  std::optional<Prefetcher> prefetcher;
};

BatchLoader::BatchLoader(std::shared_ptr<const TokenDataset> data, LoaderOptions options, DataCursor start)
    : impl_(std::make_unique<Impl>(std::move(data), std::move(options), start)) {
}

BatchLoader::~BatchLoader() = default;

HostBatch BatchLoader::next() {
  Made made = impl_->prefetcher ? impl_->prefetcher->take() : impl_->producer.make();
  impl_->cursor = made.after;
  impl_->batches_now = made.batches;
  return std::move(made.batch);
}

DataCursor BatchLoader::cursor() const {
  return impl_->cursor;
}

std::uint64_t BatchLoader::batches_per_epoch() const {
  return impl_->producer.batches_per_epoch();
}

double BatchLoader::epoch() const {
  return static_cast<double>(impl_->cursor.epoch) +
         static_cast<double>(impl_->cursor.batch) / static_cast<double>(impl_->batches_now);
}

struct EvalBatches::Impl {
  std::shared_ptr<const TokenDataset> data;
  LoaderOptions options;
  EpochPlan plan;
  std::size_t limit = 0;

  void order_mlx_lm(std::span<const std::uint32_t> permutation) {
    plan = plan_mlx_lm(data->size(), static_cast<std::size_t>(options.batch_size), permutation);
    plan.truncate(limit);
  }
};

EvalBatches::EvalBatches(std::shared_ptr<const TokenDataset> data, LoaderOptions options, int num_batches)
    : impl_(std::make_unique<Impl>()) {
  check_options(options);
  check_data(*data, options);
  impl_->data = std::move(data);
  impl_->options = std::move(options);
  impl_->limit =
      num_batches < 0 ? std::numeric_limits<std::size_t>::max() : static_cast<std::size_t>(num_batches);
  if (impl_->options.compat_mlx_lm) {
    std::vector<std::uint32_t> in_order(mlx_lm_batches(*impl_->data, impl_->options));
    for (std::size_t i = 0; i < in_order.size(); ++i) {
      in_order[i] = static_cast<std::uint32_t>(i);
    }
    impl_->order_mlx_lm(in_order);
  } else {
    impl_->plan = plan_in_order(*impl_->data, impl_->options);
    impl_->plan.truncate(impl_->limit);
  }
}

EvalBatches::~EvalBatches() = default;

std::size_t EvalBatches::size() const {
  return impl_->plan.size();
}

HostBatch EvalBatches::operator[](std::size_t index) const {
  const auto examples = impl_->plan[index];
  return impl_->options.compat_mlx_lm ? collate_mlx_lm(*impl_->data, examples, impl_->options)
                                      : collate(*impl_->data, examples, impl_->options);
}

std::vector<HostBatch> EvalBatches::parts(std::size_t index) const {
  return split_batch((*this)[index], impl_->options);
}

void EvalBatches::draw() {
  // mlx-lm asks its iterator for nothing, and so draws nothing, when it is to evaluate no batches.
  if (!impl_->options.compat_mlx_lm || !impl_->options.mlx_lm_random || impl_->limit == 0) {
    return;
  }
  impl_->order_mlx_lm(impl_->options.mlx_lm_random->permutation(mlx_lm_batches(*impl_->data, impl_->options)));
}

} // namespace temper
