// Runs a target without libFuzzer: `fuzz_x COUNT FOLDER...` on each file of the folders and on COUNT mutations
// of them, the same ones every time. An input that ends the process is left as build/<target>.running.

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "fuzz/target.h"

namespace {

namespace fs = std::filesystem;
using Bytes = std::string;
using Random = std::mt19937_64;

constexpr std::size_t kMostBytes = 1 << 16;

std::vector<Bytes> read_corpus(int count, char** folders) {
  std::vector<fs::path> paths;
  for (int i = 0; i < count; ++i) {
    for (const auto& entry : fs::directory_iterator(folders[i])) {
      if (entry.is_regular_file() && entry.file_size() <= kMostBytes) {
        paths.push_back(entry.path());
      }
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> corpus;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return corpus;
}

// Uniform in [0, most], alike on every platform.
std::size_t draw(Random& random, std::size_t most) {
  return static_cast<std::size_t>(random() % (most + 1));
}

// Numbers at which counts and lengths go wrong.
std::uint64_t odd_number(Random& random) {
  static constexpr std::array<std::uint64_t, 12> kOdd{
      0, 1, 7, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff, 1ULL << 32, 1ULL << 62, 1ULL << 63, ~0ULL};
  return kOdd[draw(random, kOdd.size() - 1)];
}

void overwrite(Bytes& bytes, Random& random, std::size_t width) {
  if (bytes.size() >= width) {
    const auto value = odd_number(random);
    std::memcpy(bytes.data() + draw(random, bytes.size() - width), &value, width);
  }
}

void mutate_once(Bytes& bytes, const std::vector<Bytes>& corpus, Random& random) {
  const auto at = draw(random, bytes.size());
  const auto length = std::min(draw(random, 16), bytes.size() - at);
  switch (draw(random, 8)) {
    case 0:
      if (at < bytes.size()) {
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << draw(random, 7)));
      }
      break;
    case 1:
      bytes.erase(at, length);
      break;
    case 2:
      bytes.insert(at, bytes.substr(at, length));
      break;
    case 3:
      bytes.insert(at, 1, static_cast<char>(draw(random, 255)));
      break;
    case 4:
      bytes.resize(at);
      break;
    case 5: { // a part of another file
      const auto& other = corpus[draw(random, corpus.size() - 1)];
      bytes.insert(at, other.substr(draw(random, other.size()), draw(random, 64)));
      break;
    }
    case 6: // digits and signs of texts
      if (at < bytes.size()) {
        bytes[at] = "0129-[]{}\",:.e%|"[draw(random, 15)];
      }
      break;
    case 7:
      overwrite(bytes, random, 4);
      break;
    default:
      overwrite(bytes, random, 8);
  }
}

void run(const Bytes& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

void keep(const fs::path& path, const Bytes& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

} // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s COUNT FOLDER...\n", arguments[0]);
    return 2;
  }
  const auto corpus = read_corpus(count - 2, arguments + 2);
  if (corpus.empty()) {
    std::fprintf(stderr, "no corpus\n");
    return 2;
  }
  for (const auto& bytes : corpus) {
    run(bytes);
  }
  // What was running when the process ended, if it ends in between.
  const fs::path running = fs::path("build") / (fs::path(arguments[0]).filename().string() + ".running");
  Random random(20260101);
  const long mutations = std::strtol(arguments[1], nullptr, 10);
  for (long i = 0; i < mutations; ++i) {
    auto bytes = corpus[draw(random, corpus.size() - 1)];
    for (std::size_t n = 1 + draw(random, 4); n > 0; --n) {
      mutate_once(bytes, corpus, random);
    }
    bytes.resize(std::min(bytes.size(), kMostBytes));
    keep(running, bytes);
    run(bytes);
  }
  fs::remove(running);
  std::printf("%zu files, %ld mutations\n", corpus.size(), mutations);
  return 0;
}
