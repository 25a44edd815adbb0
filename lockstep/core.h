#pragma once

/// Everything public of the torch-free wing: communicators on raw memory, stores, launching.

#include "lockstep/core/backend/backend.h"
#include "lockstep/core/base/deadline.h"
#include "lockstep/core/base/dtype.h"
#include "lockstep/core/base/environment.h"
#include "lockstep/core/base/error.h"
#include "lockstep/core/base/partition.h"
#include "lockstep/core/comm/blobs.h"
#include "lockstep/core/comm/communicator.h"
#include "lockstep/core/comm/init.h"
#include "lockstep/core/comm/subgroup.h"
#include "lockstep/core/comm/work.h"
#include "lockstep/core/kernels/kernels.h"
#include "lockstep/core/launch/spawn.h"
#include "lockstep/core/store/store.h"
#include "lockstep/core/store/tcp_store.h"
