#include "temper/base/parallel.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>
#include <vector>

using namespace temper;

TEST_CASE("every index is visited once, for any grain") {
  for (const std::size_t count : {0, 1, 7, 1000}) {
    for (const std::size_t grain : {1, 3, 2000}) {
      std::vector<std::atomic<int>> visits(count);
      parallel_for(count, grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) {
          ++visits[i];
        }
      });
      for (const auto& visit : visits) {
        CHECK(visit == 1);
      }
    }
  }
}

TEST_CASE("loops within loops and loops from several threads finish") {
  std::atomic<int> total{0};
  const auto loop = [&] {
    parallel_for(8, 1, [&](std::size_t, std::size_t) {
      parallel_for(4, 1, [&](std::size_t begin, std::size_t end) { total += static_cast<int>(end - begin); });
    });
  };
  std::thread other(loop);
  loop();
  other.join();
  CHECK(total == 64);
}
