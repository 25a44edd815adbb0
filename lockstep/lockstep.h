#pragma once

/// Everything public: both wings and the training loop. Include <torch/torch.h> beside it for modules and optimizers.

#include "lockstep/core.h"
#include "lockstep/parallel/data/dataset.h"
#include "lockstep/parallel/data/distributed_sampler.h"
#include "lockstep/parallel/data/loader.h"
#include "lockstep/parallel/ddp/distributed_data_parallel.h"
#include "lockstep/parallel/group/functional.h"
#include "lockstep/parallel/group/memory_policy.h"
#include "lockstep/parallel/group/objects.h"
#include "lockstep/parallel/group/process_group.h"
#include "lockstep/parallel/sentinel/sentinel.h"
#include "lockstep/parallel/train/evaluate.h"
#include "lockstep/parallel/train/metrics.h"
#include "lockstep/parallel/train/model.h"
#include "lockstep/parallel/train/progress.h"
#include "lockstep/parallel/train/records.h"
#include "lockstep/parallel/train/trainer.h"
#include "lockstep/parallel/train/weights.h"
