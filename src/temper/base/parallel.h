// Loops over the machine's cores, for host work that MLX runs on one.
#pragma once

#include <cstddef>
#include <functional>

namespace temper {

// Cores that parallel_for() uses, the caller's included: TEMPER_THREADS if set, else the machine's. Throws
// ConfigError if that is not a number of threads.
std::size_t num_threads();

// Calls body(begin, end) over [0, count) in pieces of at most `grain`, on all cores, and waits for them.
// Pieces go to whichever thread is free; `body` must not throw. A call from within a body runs alone.
void parallel_for(std::size_t count, std::size_t grain,
                  const std::function<void(std::size_t, std::size_t)>& body);

} // namespace temper
