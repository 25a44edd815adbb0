#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "lockstep/core/launch/preview.h"

namespace lockstep {

/// `lockstep run --dry-run` for people: the job, then a paragraph for each worker of this node.
void print_preview(std::ostream& out, const launch::JobOptions& options, const launch::JobPreview& preview);

/// The same as one JSON object: {"problems": [...], "program": ..., "nnodes": ..., "workers": [{"rank": ..., "cpus":
/// [...], "environment": {...}}, ...]}.
std::string preview_to_json(const launch::JobOptions& options, const launch::JobPreview& preview,
                            const std::vector<std::string>& problems);

}  // namespace lockstep
