// temper upload: a run's adapter, a model's folder or a GGUF file to the hub.
#include <fmt/format.h>

#include "cli/args.h"
#include "cli/interrupt.h"
#include "cli/upload_files.h"
#include "cli/verbs.h"
#include "temper/base/error.h"
#include "temper/net/hub_upload.h"
#include "temper/net/progress.h"

namespace temper::cli {
namespace {

HubRepo repo_named(const std::string& name, const std::string& revision) {
  auto repo = parse_hub_name(name);
  if (!repo || repo->kind != HubRepo::Kind::model || repo->id.find('/') == std::string::npos ||
      !repo->path.empty()) {
    throw ConfigError("--to '" + name + "' is no name on the hub: write org/name");
  }
  if (!revision.empty()) {
    repo->revision = revision;
  }
  return *repo;
}

} // namespace

int run_upload(const Arguments& arguments) {
  std::string path;
  std::string to;
  std::string revision;
  UploadOptions options;
  options.message = "Upload with Temper";
  Args args(
      "upload",
      "Sends a run's adapter, a model's folder or a GGUF file to the hub. What the hub has is not sent again.",
      "temper upload --path runs/mine --to my-name/my-adapter --private");
  args.add("path", &path, "folder of a run, an adapter or a model; or one file").metavar("PATH").required();
  args.add("to", &to, "where on the hub; made if it is not there").metavar("ORG/NAME").required();
  args.add("private", &options.is_private, "only you can see it, if it is made");
  args.add("revision", &revision, "branch to commit to, made if it is not there; none: main");
  args.add("message", &options.message, "of the commit").metavar("TEXT");
  if (!args.parse(arguments)) {
    return 0;
  }
  const auto repo = repo_named(to, revision);
  const auto files = choose_upload(path, repo.id);
  HubUpload upload(hub_settings_from_environment(), repo);
  catch_interrupts();
  end_downloads_on(interrupt_signal());
  const auto result = upload.send(files, options);
  if (!args.json()) {
    fmt::print("{}: {} files, of which {} large ones were sent and {} were there\n", result.url, files.size(),
               result.num_sent, result.num_there);
    return 0;
  }
  Json json{{"repository", repo.id},
            {"revision", repo.revision},
            {"url", result.url},
            {"commit", result.commit},
            {"files", Json::array()},
            {"large_files_sent", result.num_sent},
            {"bytes_sent", result.bytes_sent},
            {"large_files_there", result.num_there}};
  for (const auto& file : files) {
    json["files"].push_back(file.name);
  }
  print_json(json);
  return 0;
}

} // namespace temper::cli
