#include "temper/io/gguf.h"

#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "nn/support.h"
#include "temper/base/error.h"
#include "temper/base/files.h"
#include "text/fixtures.h"

using namespace temper;
using namespace temper::test;

namespace {

template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string text(const std::string& s) {
  return raw(std::uint64_t{s.size()}) + s;
}

std::string key(const std::string& name, std::uint32_t type, const std::string& value) {
  return text(name) + raw(type) + value;
}

std::string info(const std::string& name, const std::vector<std::int64_t>& dims, std::uint32_t type,
                 std::uint64_t offset) {
  auto bytes = text(name) + raw(static_cast<std::uint32_t>(dims.size()));
  for (const auto dim : dims) {
    bytes += raw(dim);
  }
  return bytes + raw(type) + raw(offset);
}

std::string start(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
  return "GGUF" + raw(version) + raw(tensors) + raw(keys);
}

std::string with_data(std::string header, std::size_t bytes) {
  header.resize((header.size() + 31) / 32 * 32);
  return header + std::string(bytes, '\0');
}

// The complaint about these bytes; "" if there is none.
std::string complaint(const std::string& bytes) {
  const auto message = message_of<ModelError>([&] { parse_gguf_header(bytes, "some/model.gguf"); });
  if (!message.empty()) {
    CHECK(contains(message, "some/model.gguf: "));
    CHECK_FALSE(contains(message, "\n"));
  }
  return message;
}

std::string complaint_of_key(std::uint32_t type, const std::string& value) {
  return complaint(start(0, 1) + key("a.key", type, value));
}

std::string complaint_of_tensors(const std::vector<std::string>& infos, std::size_t data_bytes) {
  std::string bytes = start(infos.size(), 0);
  for (const auto& one : infos) {
    bytes += one;
  }
  return complaint(with_data(bytes, data_bytes));
}

GgufOutput output(const std::string& name, const std::vector<std::int64_t>& dims, GgufType type, char fill) {
  return {name, dims, type, [=](const GgufSink& sink) {
            const std::string bytes(static_cast<std::size_t>(gguf_tensor_bytes(name, dims, type)), fill);
            const auto half = bytes.size() / 2;
            sink(std::as_bytes(std::span(bytes.data(), half)));
            sink(std::as_bytes(std::span(bytes.data() + half, bytes.size() - half)));
          }};
}

// Built a value at a time: g++ takes minutes and gigabytes over a list of so many variants.
GgufMetadata make_every_type() {
  GgufMetadata all;
  const auto add = [&](const char* name, GgufValue value) { all.emplace_back(name, std::move(value)); };
  const auto add_list = [&](const char* name, GgufArray value) { all.emplace_back(name, std::move(value)); };
  add("u8", std::uint8_t{200});
  add("i8", std::int8_t{-3});
  add("u16", std::uint16_t{60000});
  add("i16", std::int16_t{-300});
  add("u32", std::uint32_t{4000000000});
  add("i32", std::int32_t{-70000});
  add("f32", 1.5F);
  add("bool", true);
  add("string", std::string("ʻōlelo\0!", 9));
  add("u64", std::uint64_t{1} << 63);
  add("i64", std::int64_t{-1} << 40);
  add("f64", 0.1);
  add_list("strings", std::vector<std::string>{"a", "", "<0x0A>"});
  add_list("floats", std::vector<float>{0.F, -1.F});
  add_list("bools", std::vector<bool>{true, false, true});
  add_list("ids", std::vector<std::int32_t>{1, 2, 3});
  add_list("none", std::vector<std::uint64_t>{});
  return all;
}

const GgufMetadata kEveryType = make_every_type();

} // namespace

TEST_CASE("what is written is read: values of every type, tensors at their places") {
  const TempFolder folder;
  const auto path = folder.path() / "a.gguf";
  write_gguf(path, kEveryType,
             {output("w", {3, 5}, GgufType::f32, 'w'), output("q", {64, 2}, GgufType::q8_0, 'q'),
              output("one", {1}, GgufType::f16, 'o')});
  const auto header = read_gguf_header(path);
  CHECK(header.version == 3);
  CHECK(header.metadata == kEveryType);
  const auto bytes = read_file(path);
  REQUIRE(header.tensors.size() == 3);
  for (const auto& tensor : header.tensors) {
    CAPTURE(tensor.name);
    CHECK(tensor.begin % 32 == 0);
    CHECK(bytes.substr(tensor.begin, tensor.bytes) == std::string(tensor.bytes, tensor.name[0]));
  }
  CHECK(header.tensors[0].dims == std::vector<std::int64_t>{3, 5});
  CHECK(header.find_tensor("q")->bytes == 4 * 34);
  CHECK(header.find_tensor("q")->elements() == 128);
  CHECK(header.find_tensor("missing") == nullptr);
  CHECK(bytes.size() % 32 == 0);
}

TEST_CASE("metadata is asked for by kind, and another kind is an error that names the key") {
  const TempFolder folder;
  const auto path = folder.path() / "a.gguf";
  write_gguf(path, kEveryType, {});
  const auto header = read_gguf_header(path);
  CHECK(header.integer("u8") == 200);
  CHECK(header.integer("i32") == -70000);
  CHECK(header.number("f32") == 1.5);
  CHECK(header.number("i16") == -300.0);
  CHECK(header.boolean("bool") == true);
  CHECK(header.text("string")->size() == 9);
  CHECK(header.texts("strings")->at(2) == "<0x0A>");
  CHECK(header.integers("ids") == std::vector<std::int64_t>{1, 2, 3});
  CHECK(header.numbers("floats") == std::vector<double>{0, -1});
  CHECK_FALSE(header.integer("missing").has_value());
  CHECK(header.text("missing") == nullptr);
  CHECK(header.texts("missing") == nullptr);
  CHECK_FALSE(header.integers("missing").has_value());
  const auto wrong = [&](const auto& ask) { return message_of<ModelError>([&] { ask(); }); };
  CHECK(contains(wrong([&] { header.integer("f32"); }), "a.gguf: metadata key f32 is not an integer"));
  CHECK(contains(wrong([&] { header.integer("u64"); }), "u64 is not an integer"));
  CHECK(contains(wrong([&] { header.integer("bool"); }), "bool is not an integer"));
  CHECK(contains(wrong([&] { header.number("string"); }), "string is not a number"));
  CHECK(contains(wrong([&] { header.boolean("u8"); }), "u8 is not a boolean"));
  CHECK(contains(wrong([&] { header.text("ids"); }), "ids is not a string"));
  CHECK(contains(wrong([&] { header.texts("ids"); }), "ids is not an array of strings"));
  CHECK(contains(wrong([&] { header.integers("strings"); }), "strings is not an array of integers"));
  CHECK(contains(wrong([&] { header.integers("u8"); }), "u8 is not an array of integers"));
  CHECK(contains(wrong([&] { header.numbers("bools"); }), "bools is not an array of numbers"));
}

TEST_CASE("sound headers are accepted: version 2, no tensors, another alignment, gaps, any order") {
  CHECK(complaint(start(0, 0)).empty());
  CHECK(complaint(start(0, 0, 2)).empty());
  CHECK(complaint_of_tensors({info("a", {8}, 0, 32), info("b", {8}, 0, 0)}, 64).empty());
  CHECK(complaint_of_tensors({info("a", {8}, 0, 64)}, 96).empty());
  CHECK(complaint_of_tensors({info("a", {}, 0, 0)}, 4).empty());
  std::string wide = start(1, 1) + key("general.alignment", 4, raw(std::uint32_t{64})) + info("a", {1}, 0, 64);
  wide.resize((wide.size() + 63) / 64 * 64);
  CHECK(complaint(wide + std::string(68, '\0')).empty());
  CHECK(contains(complaint(wide + std::string(67, '\0')), "tensor a takes 4 bytes from byte 64 of 67"));
}

TEST_CASE("what is no GGUF is refused") {
  CHECK(contains(complaint(""), "does not begin with GGUF"));
  CHECK(contains(complaint("GGU"), "does not begin with GGUF"));
  CHECK(contains(complaint("PK\x03\x04 and more"), "does not begin with GGUF"));
  CHECK(contains(complaint("GGUF"), "runs past the end"));
  CHECK(contains(complaint(start(0, 0).substr(0, 20)), "runs past the end"));
  CHECK(contains(complaint(start(0, 0, 1)), "version 1 is not supported"));
  CHECK(contains(complaint(start(0, 0, 4)), "version 4 is not supported"));
  CHECK(contains(complaint(start(0, 0, 0x03000000)), "big-endian"));
  CHECK(contains(message_of<IoError>([] { read_gguf_header("/nonexistent/a.gguf"); }), "/nonexistent"));
}

TEST_CASE("counts and lengths that the file can't hold are refused before anything is reserved") {
  for (const auto count :
       {~std::uint64_t{0}, std::uint64_t{1} << 63, std::uint64_t{1} << 40, std::uint64_t{30}}) {
    CAPTURE(count);
    CHECK(contains(complaint(start(count, 0)), "the count of tensors claims"));
    CHECK(contains(complaint(start(0, count)), "the count of metadata keys claims"));
    CHECK(contains(complaint_of_key(8, raw(count)), "a.key runs past the end"));
    CHECK(contains(complaint_of_key(9, raw(std::uint32_t{8}) + raw(count)), "a.key claims"));
    CHECK(contains(complaint_of_key(9, raw(std::uint32_t{12}) + raw(count) + "12345678"), "a.key claims"));
    CHECK(contains(complaint(start(0, 1) + raw(count) + std::string(8, 'k')), "runs past the end"));
    CHECK(contains(complaint(start(1, 0) + raw(count) + std::string(24, 'n')), "runs past the end"));
  }
}

TEST_CASE("impossible metadata is named") {
  CHECK(contains(complaint_of_key(13, "x"), "a.key has the unknown type 13"));
  CHECK(contains(complaint_of_key(~0U, "x"), "a.key has the unknown type 4294967295"));
  CHECK(contains(complaint_of_key(7, "\2"), "a.key is a boolean of value 2"));
  CHECK(contains(complaint_of_key(10, "1234567"), "a.key runs past the end"));
  CHECK(contains(complaint_of_key(9, raw(std::uint32_t{9}) + raw(std::uint64_t{0})),
                 "a.key is an array of arrays"));
  CHECK(contains(complaint_of_key(9, raw(std::uint32_t{13}) + raw(std::uint64_t{0})),
                 "a.key is an array of the unknown type 13"));
  const auto twice = key("same", 0, "1") + key("same", 0, "2");
  CHECK(contains(complaint(start(0, 2) + twice), "metadata key same is there twice"));
  CHECK(contains(complaint(start(0, 1) + key("a\nb\x01", 13, "x")), "a?b? has the unknown type"));
  for (const std::uint32_t bad : {0U, 3U, 33U, 1U << 31}) {
    CAPTURE(bad);
    CHECK(contains(complaint(start(0, 1) + key("general.alignment", 4, raw(bad))), "general.alignment"));
  }
  CHECK(contains(complaint(start(0, 1) + key("general.alignment", 10, raw(std::uint64_t{32}))), "alignment"));
}

TEST_CASE("impossible tensors are named") {
  const auto one = [](const std::string& bytes) { return complaint_of_tensors({bytes}, 64); };
  const auto huge = std::int64_t{1} << 32;
  CHECK(contains(one(info("w", {huge, huge}, 0, 0)), "tensor w has an impossible shape"));
  CHECK(contains(one(info("w", {huge, huge, huge, huge}, 0, 0)), "tensor w has an impossible shape"));
  CHECK(contains(one(info("w", {-1, 2}, 0, 0)), "tensor w has an impossible shape"));
  CHECK(contains(one(info("w", {0}, 0, 0)), "tensor w has an impossible shape"));
  CHECK(contains(one(info("w", {1, 1, 1, 1, 1}, 0, 0)), "tensor w has 5 dimensions"));
  CHECK(contains(one(info("w", {8}, 4, 0)), "tensor w has the unknown type 4"));
  CHECK(contains(one(info("w", {8}, 1000, 0)), "tensor w has the unknown type 1000"));
  CHECK(contains(one(info("w", {16}, 8, 0)), "tensor w has rows of 16 values, no whole blocks of Q8_0"));
  CHECK(contains(one(info("w", {8}, 0, 16)), "tensor w begins at byte 16, not a multiple of 32"));
  CHECK(contains(one(info("w", {8}, 0, 64)), "tensor w takes 32 bytes from byte 64 of 64"));
  CHECK(contains(one(info("w", {17}, 0, 0)), "tensor w takes 68 bytes from byte 0 of 64"));
  CHECK(contains(one(info("w", {8}, 0, ~std::uint64_t{31})), "tensor w takes 32 bytes"));
  CHECK(contains(one(info(std::string(64, 'n'), {8}, 0, 0)), "name of 64 bytes"));
  CHECK(one(info(std::string(63, 'n'), {8}, 0, 0)).empty());
}

TEST_CASE("tensors may neither overlap nor share a name") {
  CHECK(contains(complaint_of_tensors({info("a", {16}, 0, 0), info("b", {8}, 0, 32)}, 96), "a and b overlap"));
  CHECK(contains(complaint_of_tensors({info("a", {8}, 0, 32), info("b", {8}, 0, 32)}, 96), "overlap"));
  CHECK(contains(complaint_of_tensors({info("a", {8}, 0, 0), info("a", {8}, 0, 32)}, 96), "a is there twice"));
}

TEST_CASE("every truncation of a file is refused, and no changed byte crashes") {
  const TempFolder folder;
  const auto path = folder.path() / "a.gguf";
  write_gguf(path, kEveryType, {output("w", {3, 5}, GgufType::f32, 'w')});
  const auto whole = read_file(path);
  const auto header = read_gguf_header(path);
  const auto end = header.tensors[0].begin + header.tensors[0].bytes;
  for (std::size_t length = 0; length < end; ++length) {
    CAPTURE(length);
    CHECK(message_of<ModelError>([&] { parse_gguf_header(std::string_view(whole).substr(0, length), path); }) !=
          "");
  }
  for (std::size_t i = 0; i < header.tensors[0].begin; ++i) {
    for (const char value : {'\0', '\1', '\x7f', '\xff'}) {
      auto changed = whole;
      changed[i] = value;
      message_of<ModelError>([&] { parse_gguf_header(changed, path); });
    }
  }
}

TEST_CASE("what can't be written is refused and leaves the old file") {
  const TempFolder folder;
  const auto path = folder.path() / "a.gguf";
  folder.write("a.gguf", "old");
  const auto w = output("w", {3, 5}, GgufType::f32, 'w');
  auto short_one = w;
  short_one.write = [](const GgufSink&) {};
  const auto refusal = [&](const GgufMetadata& metadata, const std::vector<GgufOutput>& tensors) {
    return message_of<ModelError>([&] { write_gguf(path, metadata, tensors); });
  };
  CHECK(contains(refusal({}, {w, w}), "tensor w is there twice"));
  CHECK(contains(refusal({{"k", true}, {"k", true}}, {w}), "metadata key k is there twice"));
  CHECK(contains(refusal({{"k", GgufArray(std::monostate{})}}, {w}), "k is an array of nothing"));
  CHECK(contains(refusal({}, {output("q", {33, 2}, GgufType::q4_0, 'q')}), "no whole blocks of Q4_0"));
  CHECK(contains(refusal({}, {short_one}), "tensor w gave 0 bytes, not 60"));
  CHECK(read_file(path) == "old");

  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &limit) == 0);
  const rlimit small{rlim_t{1000}, limit.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const auto message =
      message_of<IoError>([&] { write_gguf(path, {}, {output("large", {100000}, GgufType::f32, 'l')}); });
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  std::signal(SIGXFSZ, previous);
  CHECK(contains(message, "cannot write " + path.string()));
  CHECK(read_file(path) == "old");
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()),
                      std::filesystem::directory_iterator()) == 1);
}
