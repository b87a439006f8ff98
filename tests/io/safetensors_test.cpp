#include "temper/io/safetensors.h"

#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "nn/support.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "temper/base/json.h"
#include "text/fixtures.h"

using namespace temper;
using namespace temper::test;

namespace {

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + rest;
}

// A file of this header and `data_bytes` bytes of data.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, '\0'));
}

std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

// The complaint about a file of these bytes; "" if it is read without one.
std::string complaint(const std::string& bytes) {
  const TempFolder folder;
  const auto path = folder.path() / "model.safetensors";
  write_file_atomic(path, bytes);
  const auto message = message_of<ModelError>([&] {
    const auto params = load_safetensors(path);
    mx::eval(values(params));
  });
  if (!message.empty()) {
    CHECK(contains(message, path.string()));
    CHECK_FALSE(contains(message, "\n"));
  }
  return message;
}

std::size_t files_in(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
}

} // namespace

TEST_CASE("what is saved is loaded, in every dtype and shape, with its metadata") {
  const TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  const auto matrix = randn({3, 5}, "matrix");
  const Params params{
      {"fp32", matrix},
      {"fp16", mx::astype(matrix, mx::float16)},
      {"bf16", mx::astype(matrix, mx::bfloat16)},
      {"transposed", mx::transpose(matrix)},
      {"scalar", mx::array(4.0F)},
      {"empty", mx::zeros({0, 3})},
      {"flags", mx::array({true, false})},
      {"bytes", mx::array({1, 2, 3}, mx::uint8)},
      {"ids", mx::array({-1, 7}, mx::int32)},
      {"long", mx::array({-1, 7}, mx::int64)},
  };
  save_safetensors(path, params, {{"format", "mlx"}, {"note", "ʻōlelo"}});
  CHECK(same_bits(load_safetensors(path), params));
  const auto header = read_safetensors_header(path);
  CHECK(header.metadata.at("note") == "ʻōlelo");
  CHECK(header.tensors.at("bf16").dtype == "BF16");
  CHECK(header.tensors.at("transposed").shape == std::vector<std::int64_t>{5, 3});
  CHECK(files_in(folder.path()) == 1);
}

TEST_CASE("saving over a file replaces it, even one that is being read") {
  const TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  save_safetensors(path, {{"w", mx::full({4}, 1.0F, mx::float32)}});
  auto read = load_safetensors(path);
  save_safetensors(path, {{"w", read.at("w") + mx::array(1.0F)}});
  CHECK(same_bits(load_safetensors(path).at("w"), mx::full({4}, 2.0F, mx::float32)));
  CHECK(files_in(folder.path()) == 1);
}

TEST_CASE("sound headers are accepted") {
  CHECK(complaint(file_of("{}", 0)).empty());
  CHECK(complaint(file_of("{\"w\":" + tensor("F32", "[2,1]", "[0,8]") + "}   ", 8)).empty());
  CHECK(complaint(file_of("{\"__metadata__\":{\"a\":\"b\"},\"w\":" + tensor("U8", "[]", "[0,1]") + "}", 1))
            .empty());
}

TEST_CASE("every dtype that a header may name is read") {
  const std::pair<const char*, int> sizes[] = {{"BOOL", 1}, {"U8", 1},   {"I8", 1},  {"U16", 2}, {"I16", 2},
                                               {"F16", 2},  {"BF16", 2}, {"U32", 4}, {"I32", 4}, {"F32", 4},
                                               {"U64", 8},  {"I64", 8},  {"C64", 8}};
  for (const auto& [dtype, bytes] : sizes) {
    CAPTURE(dtype);
    const auto offsets = "[0," + std::to_string(bytes) + "]";
    CHECK(complaint(
              file_of("{\"w\":" + tensor(dtype, "[1]", offsets) + "}", static_cast<std::size_t>(bytes))) == "");
  }
}

TEST_CASE("damaged files are refused before anything is mapped") {
  const std::string sound = "{\"w\":" + tensor("F32", "[2]", "[0,8]") + "}";
  const auto whole = file_of(sound, 8);
  CHECK(contains(complaint(""), "only 0 bytes"));
  CHECK(contains(complaint(whole.substr(0, 5)), "only 5 bytes"));
  CHECK(contains(complaint(whole.substr(0, 20)), "header claims"));
  CHECK(contains(complaint(whole.substr(0, whole.size() - 1)), "w ends at byte 8 of 7"));
  CHECK(contains(complaint(whole + "x"), "take 8 bytes, the file holds 9"));
  CHECK(contains(complaint(with_length(~std::uint64_t{0}, sound)), "header claims"));
  CHECK(contains(complaint(with_length(200'000'000, sound)), "header claims"));
  CHECK(contains(complaint(std::string("PK\x03\x04\x14\x00\x08\x00", 8) + sound), "is a zip or pickle"));
  CHECK(contains(complaint(std::string("\x80\x02}q\x00(X\x01", 8) + sound), "is a zip or pickle"));
  CHECK(contains(complaint(with_length(std::uint64_t{1} << 63, sound)), "header claims"));
  CHECK(contains(complaint(file_of("", 0)), "not JSON"));
  CHECK(contains(complaint(file_of("7", 0)), "not a JSON object"));
  CHECK(contains(complaint(file_of(sound + "x", 8)), "not JSON"));
  CHECK(contains(complaint("version https://git-lfs.github.com/spec/v1\n"), "header claims"));
  CHECK(contains(complaint(file_of("not json", 0)), "not JSON"));
  CHECK(contains(complaint(file_of("[1]", 0)), "not a JSON object"));
  CHECK(contains(complaint(file_of("{\"\xff\xfe\":1}", 0)), "not JSON"));
}

TEST_CASE("impossible tensors are named") {
  const auto one = [](const std::string& entry, std::size_t bytes) {
    return complaint(file_of("{\"layer.w\":" + entry + "}", bytes));
  };
  CHECK(contains(one(tensor("F32", "[-1,2]", "[0,8]"), 8), "layer.w has an impossible shape"));
  CHECK(contains(one(tensor("F32", "[4294967296,4294967296]", "[0,8]"), 8), "layer.w has an impossible shape"));
  CHECK(contains(one(tensor("F32", "[3]", "[0,8]"), 8), "layer.w has a shape that does not match its 8 bytes"));
  CHECK(contains(one(tensor("F32", "[2]", "[8,0]"), 8), "layer.w"));
  CHECK(contains(one(tensor("F32", "[2]", "[0,-8]"), 8), "layer.w"));
  CHECK(contains(one(tensor("F32", "[2]", "[0]"), 8), "layer.w lacks"));
  CHECK(contains(one(tensor("F32", "\"two\"", "[0,8]"), 8), "layer.w lacks"));
  CHECK(contains(one(tensor("Q4_K", "[2]", "[0,8]"), 8), "layer.w has dtype Q4_K"));
  CHECK(contains(one(tensor("F64", "[1]", "[0,8]"), 8), "layer.w has dtype F64"));
  CHECK(contains(one(tensor("U8", "7", "[0,1]"), 1), "layer.w lacks"));
  CHECK(contains(one(tensor("U8", "{\"a\":1}", "[0,1]"), 1), "layer.w lacks"));
  CHECK(contains(one("{}", 8), "layer.w lacks"));
  CHECK(contains(one("7", 8), "layer.w lacks"));
}

TEST_CASE("axes are as many, and as long, as MLX counts") {
  const auto one = [](const std::string& shape, std::size_t bytes) {
    return complaint(
        file_of("{\"w\":" + tensor("U8", shape, "[0," + std::to_string(bytes) + "]") + "}", bytes));
  };
  CHECK(contains(one("[0,4294967296]", 0), "impossible shape"));
  CHECK(contains(one("[0,9223372036854775808]", 0), "impossible shape"));
  CHECK(contains(one("[1e3]", 1000), "impossible shape"));
  std::string many = "[1";
  for (int i = 0; i < 40; ++i) {
    many += ",1";
  }
  CHECK(contains(one(many + "]", 1), "w lacks"));
}

TEST_CASE("a name stands once in a header, and in a message on one line") {
  const auto entry = tensor("U8", "[1]", "[0,1]");
  CHECK(contains(complaint(file_of("{\"w\":" + entry + ",\"w\":" + entry + "}", 1)), "names tensor w twice"));
  CHECK(contains(complaint(file_of(R"({"w":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1)),
                 "w lacks"));
  CHECK(contains(complaint(file_of("{\"a\\nb\":" + tensor("U8", "[2]", "[0,1]") + "}", 1)), "tensor a?b"));
  CHECK(complaint(file_of("{\"" + std::string(100'000, 'n') + "\":7}", 0)).size() < 600);
}

TEST_CASE("deep nesting ends at once, wherever it is") {
  const std::string deep(1'000'000, '[');
  CHECK(contains(complaint(file_of(deep, 0)), "not a JSON object"));
  CHECK(contains(complaint(file_of("{\"w\":" + deep, 0)), "w lacks"));
  CHECK(contains(complaint(file_of("{\"__metadata__\":{\"a\":" + deep, 0)), "nested too deep"));
  CHECK(contains(complaint(file_of("{\"w\":{\"shape\":" + deep, 0)), "nested too deep"));
}

TEST_CASE("many tensors are read in a moment") {
  std::string header = "{";
  for (int i = 0; i < 60'000; ++i) {
    const auto at = std::to_string(i);
    header += (i > 0 ? ",\"w" : "\"w") + at +
              "\":" + tensor("U8", "[1]", "[" + at + "," + std::to_string(i + 1) + "]");
  }
  CHECK(parse_safetensors_header(file_of(header + "}", 60'000), "a").tensors.size() == 60'000);
}

TEST_CASE("a folder is no file of weights") {
  const TempFolder folder;
  CHECK(contains(message_of<IoError>([&] { load_safetensors(folder.path()); }), folder.path().string()));
}

TEST_CASE("tensors may neither overlap nor leave a gap") {
  const auto two = [](const std::string& first, const std::string& second, std::size_t bytes) {
    return complaint(file_of(
        "{\"a\":" + tensor("F32", "[2]", first) + ",\"b\":" + tensor("F32", "[2]", second) + "}", bytes));
  };
  CHECK(two("[0,8]", "[8,16]", 16).empty());
  CHECK(two("[8,16]", "[0,8]", 16).empty());
  CHECK(contains(two("[0,8]", "[4,12]", 12), "overlap"));
  CHECK(contains(two("[0,8]", "[0,8]", 8), "overlap"));
  CHECK(contains(two("[0,8]", "[12,20]", 20), "gap"));
  CHECK(contains(two("[4,12]", "[12,20]", 20), "gap"));
}

TEST_CASE("a file that is not there is an IoError") {
  CHECK(contains(message_of<IoError>([] { load_safetensors("/nonexistent/model.safetensors"); }),
                 "/nonexistent"));
}

TEST_CASE("a write that is cut short, as on a full disk, is an IoError and leaves the old file") {
  const TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  const Params old{{"w", mx::ones({4})}};
  save_safetensors(path, old);

  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &limit) == 0);
  const Params large{{"w", mx::ones({1000})}};
  // Short by much, and by less than the header's length.
  for (const rlim_t allowed : {rlim_t{1000}, rlim_t{4030}}) {
    CAPTURE(allowed);
    const rlimit small{allowed, limit.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    const auto message = message_of<IoError>([&] { save_safetensors(path, large); });
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(contains(message, path.string()));
  }
  std::signal(SIGXFSZ, previous);
  CHECK(same_bits(load_safetensors(path), old));
  CHECK(files_in(folder.path()) == 1);
}
