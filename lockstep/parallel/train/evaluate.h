#pragma once

#include <cstddef>

#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/train/model.h"
#include "lockstep/parallel/train/records.h"

namespace lockstep::train {

/// Collective: classifies `dataset` with `model` on all ranks of `group`, each its share, and adds up the counts.
///
/// Every sample counts once, whatever the number of ranks. The module is in eval mode meanwhile and back in the mode
/// it was in afterwards; no gradients are kept. `batch_size`: samples of this rank at a time (memory, not the result).
/// Throws as ProcessGroup.
Evaluation evaluate(const Model& model, const data::Dataset& dataset, ProcessGroup& group,
                    std::size_t batch_size = 256);

}  // namespace lockstep::train
