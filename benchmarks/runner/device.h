// What the device tells of itself while it measures: memory, cores, clocks and heat.
#pragma once

#include <string>
#include <vector>

#include "log.h"

namespace runner {

struct Memory {
  long long resident = -1, peak = -1;  // bytes of this process; -1: not told
};

Memory memory();

// Cores that this process may use.
std::vector<long long> affinity();

// A `thermal` event: Android's status and headroom (AThermal, API 30 and 31) where there are such, battery's or skin's
// temperature and the mean clock of the cores in use where the kernel tells them.
Event thermal(const char* when);

}  // namespace runner
