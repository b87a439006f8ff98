// A field list shown: as JSON, YAML, help, JSON Schema and Markdown.
#pragma once

#include <string>

#include "temper/config/field.h"

namespace temper {

// The values, nested as their keys are. A field that gave way to another is null; those that mean nothing
// to the selected variant are left out. read_tree() gives the same values back.
Json values_as_json(const FieldList& list, const FieldList& defaults);

// The same as YAML, groups as comments.
std::string values_as_yaml(const FieldList& list, const FieldList& defaults);

// JSON Schema, draft 2020-12. `list` holds the defaults.
Json schema_of(const FieldList& list, const std::string& title);

// The flags by group, each with its default. `list` holds the defaults.
std::string flags_help(const FieldList& list);

// One table a group: key, what it takes, default, mlx-lm's default where it differs, meaning.
std::string keys_as_markdown(const FieldList& list);

} // namespace temper
