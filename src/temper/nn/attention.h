// Causal attention over batches of documents: which keys a query may see, decided once a forward pass.
// Source: Vaswani et al. 2017, arXiv:1706.03762; grouped queries: Ainslie et al. 2023, arXiv:2305.13245;
// sliding window: Beltagy et al. 2020, arXiv:2004.05150.
// Dims: B rows, T tokens a row, S keys, H query heads, G key heads, D head_dim, N = B T tokens,
//       M documents, L longest document (rounded up).
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "temper/nn/params.h"

namespace temper {

// Rearranges a batch's tokens so that each document is a row of its own, and back. Packed rows then cost
// what their documents cost, and no document can see another.
struct DocumentLayout {
  mx::array gather_ML; // int32 [M, L]: the token (of N) at each place; 0 where `valid_ML` is false
  mx::array valid_ML;  // bool [M, L]
  mx::array scatter_N; // int32 [N]: the place (of M L) of each token; 0 where `real_N` is false
  mx::array real_N;    // bool [N]
};

// A layer's keys and values [B, G, S, D] of the text's columns [first, first + S).
struct StoredKeys {
  mx::array keys;
  mx::array values;
  int first = 0; // > 0 where a sliding window has left earlier ones behind
};

// What the layers keep of earlier tokens, held by the caller (infer/kv_cache.h).
class KeyValueStore {
 public:
  virtual ~KeyValueStore() = default;
  // Columns passed before this pass.
  virtual int offset() const = 0;
  // Appends an attention layer's k, v [B, G, T, D] and returns what its queries may see, to the newest column;
  // up to `multiple` - 1 columns more, of any finite value, where that makes S a multiple of it.
  virtual StoredKeys update(int layer, const mx::array& k, const mx::array& v, int multiple = 1) = 0;
  // What a recurrent layer carries from pass to pass, each [B, ...]; empty at a text's start. The layer
  // replaces it.
  virtual std::vector<mx::array>& state(int layer) = 0;
  // Ends a pass of `columns` new columns.
  virtual void advance(int columns) = 0;
};

// By what attention without a cache is computed.
enum class AttentionKernel {
  fused,     // MLX's fused one, which falls back to all scores at once where it does not serve
  automatic, // for training: fused where its backward serves, else in blocks (blocked_attention.h)
  blocked,
};

// "fused", "auto" or "blocked". Throws ConfigError for another name.
AttentionKernel attention_kernel_named(const std::string& name);

// What one forward pass's attention is over. Without segments, documents and cache: B causal rows.
struct AttentionPlan {
  std::optional<mx::array> host_documents_M2; // int32 (fused.h): the documents, for the host kernels
  std::optional<mx::array> segments_BT;       // int32: packed rows, masked densely
  std::optional<mx::array> spans_2N{};        // int32 (gpu_attention.h): packed rows; masked where not served
  std::optional<DocumentLayout> documents;    // packed rows, rearranged; wins over segments_BT
  KeyValueStore* cache = nullptr;             // generation
  std::optional<mx::array> starts_B{};        // int32, with a cache: rows' first real columns (left padding)
  AttentionKernel kernel = AttentionKernel::fused;
  // With a cache: the masks of this pass by window, first column and number of keys, so that layers alike share
  // one.
  std::shared_ptr<std::map<std::array<int, 3>, mx::array>> masks{};
};

struct AttentionSettings {
  float scale = 1.0F;
  int window = 0;                     // > 0: a query sees its own and the window - 1 keys before it
  float softcap = 0.0F;               // > 0: scores s become softcap tanh(s / softcap)
  std::optional<mx::array> sinks_H{}; // logits that take part in the softmax and carry no value
};

// MLX's fused causal attention of whole rows, as attention() below, the key heads in `num_calls` calls, a
// divisor of G: what one call needs has a bound where rows are very long. Lazy; differentiable in q, k, v and
// the sinks.
mx::array causal_attention(const AttentionSettings& settings, const mx::array& q, const mx::array& k,
                           const mx::array& v, int num_calls);

// softmax(cap(q k^T scale) + causal mask) v -> [B, H, T, D], for q [B, H, T, D], k and v [B, G, T, D] (already
// rotated). `layer` is the cache's. Lazy; differentiable in q, k, v and the sinks.
// Soft cap: Gemma 2, arXiv:2408.00118, section 2; sinks: Xiao et al. 2023, arXiv:2309.17453, as gpt-oss has
// them.
mx::array attention(const AttentionPlan& plan, const AttentionSettings& settings, const mx::array& q,
                    const mx::array& k, const mx::array& v, int layer);

// Whether attention_in_place() is to compute this, for q [B, T, H D]: on CUDA packed rows, narrow heads,
// and rows that cuDNN does not train (wide heads, soft caps, windows, widths of no multiple of 128).
bool attends_in_place(const AttentionPlan& plan, const AttentionSettings& settings, const mx::array& q_BTC,
                      int num_heads);

// As attention(), by kernels that read all heads side by side -> [B, T, H D], for q [B, T, H D], k and v
// [B, T, G D]. Lazy; differentiable in q, k and v.
mx::array attention_in_place(const AttentionPlan& plan, const AttentionSettings& settings, int num_heads,
                             int num_kv_heads, const mx::array& q, const mx::array& k, const mx::array& v);

} // namespace temper
