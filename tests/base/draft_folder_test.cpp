#include "temper/base/draft_folder.h"

#include <doctest/doctest.h>

#include "temper/base/error.h"
#include "text/fixtures.h"

using namespace temper;
using namespace temper::test;

namespace fs = std::filesystem;

TEST_CASE("a folder is there once it is published, and never in part") {
  const TempFolder folder;
  const auto target = folder.path() / "deep" / "out";
  {
    DraftFolder draft(target / ""); // a slash at the end is no part of the name
    write_file_atomic(draft.path() / "a", "1");
    CHECK_FALSE(fs::exists(target));
    CHECK(draft.path().parent_path() == target.parent_path());
    draft.publish();
    CHECK(read_file(target / "a") == "1");
  }
  CHECK(fs::exists(target / "a"));
  const auto dropped = folder.path() / "dropped";
  {
    const DraftFolder draft(dropped);
    write_file_atomic(draft.path() / "a", "1");
  }
  CHECK_FALSE(fs::exists(dropped));
  CHECK(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()) == 1);
}

TEST_CASE("an empty folder may be in its place, nothing else") {
  const TempFolder folder;
  const auto empty = folder.path() / "empty";
  fs::create_directory(empty);
  DraftFolder draft(empty);
  draft.publish();
  write_file_atomic(empty / "a", "1");
  CHECK_THROWS_AS(DraftFolder{empty}, ConfigError);
  CHECK_THROWS_AS(DraftFolder{empty / "a"}, ConfigError);
  CHECK_THROWS_AS(DraftFolder{empty / "a" / "b"}, IoError);
}
