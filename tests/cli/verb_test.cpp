#include "cli/verb.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <new>

#include "temper/base/error.h"
#include "temper/base/log.h"

using namespace temper;
using namespace temper::cli;

namespace {

Arguments seen;

int keep(const Arguments& arguments) {
  seen = arguments;
  return 0;
}

template <class E>
int raise(const Arguments&) {
  throw E("no such thing");
}

int raise_bad_alloc(const Arguments&) {
  throw std::bad_alloc();
}

int raise_mlx_out_of_memory(const Arguments&) {
  throw std::runtime_error("[malloc_or_wait] Unable to allocate 99999 bytes.");
}

int raise_cudnn(const Arguments&) {
  throw std::runtime_error(
      "graph.encode_graph() failed: invalid argument\n at: err, and code: CUDNN_STATUS_EXECUTION_FAILED");
}

int raise_filesystem(const Arguments&) {
  throw std::filesystem::filesystem_error("rename", std::make_error_code(std::errc::permission_denied));
}

const std::vector<Verb> kVerbs = {
    {"train", "Fine-tune.", keep},        {"config", "", raise<ConfigError>},
    {"data", "", raise<DataError>},       {"model", "", raise<ModelError>},
    {"io", "", raise<IoError>},           {"checkpoint", "", raise<CheckpointError>},
    {"nan", "", raise<NonFinite>},        {"memory", "", raise_bad_alloc},
    {"mlx", "", raise_mlx_out_of_memory}, {"files", "", raise_filesystem},
    {"cudnn", "", raise_cudnn},           {"bug", "", raise<std::logic_error>},
};

int run(const Arguments& arguments) {
  return run_program(arguments, kVerbs);
}

} // namespace

TEST_CASE("each category of error has its exit code") {
  log::set_level(static_cast<log::Level>(99)); // the messages are not this test's matter
  CHECK(run({"train"}) == 0);
  CHECK(run({"config"}) == 2);
  CHECK(run({"data"}) == 3);
  CHECK(run({"model"}) == 4);
  CHECK(run({"io"}) == 5);
  CHECK(run({"checkpoint"}) == 6);
  CHECK(run({"memory"}) == 7);
  CHECK(run({"mlx"}) == 7);
  CHECK(run({"nan"}) == 8);
  CHECK(run({"cudnn"}) == 4);
  CHECK(run({"files"}) == 5);
  CHECK(run({"bug"}) == 1);
  CHECK(run({"trian"}) == 2);
  log::set_level(log::Level::info);
}

TEST_CASE("a verb gets what follows it; help VERB is VERB --help") {
  run({"train", "--iters", "5"});
  CHECK(seen == Arguments{"--iters", "5"});
  run({"help", "train"});
  CHECK(seen == Arguments{"--help"});
  run({"--help", "train"});
  CHECK(seen == Arguments{"--help"});
}
