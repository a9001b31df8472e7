// The phases of a measurement, in order; each writes what it finds at once.
#pragma once

#include "log.h"
#include "side.h"

namespace runner {

using Sides = std::vector<Side>;

// Loads each side and runs it once; its outputs go to files, so that they can be held against the known answer.
void first_runs(Sides& sides, Log& log);

// Waits for a file `go` in `folder`; false for a file `stop`, or none of both in time.
bool allowed(const std::string& folder, double wait_s);

// Warm-up, then at least `runs` and `seconds` of each side in turns A B B A. A side that is faster than another takes
// more runs at its turn, so that all are timed for about as long. With `bare`, so is Method::execute() alone.
void timed_runs(Sides& sides, const Job& job, Log& log);

// From the encoded picture on, in the same turns.
void whole_runs(Sides& sides, int runs, Log& log);

// On without pause; the runs of the last tenth are kept.
void sustained_runs(Sides& sides, double seconds, Log& log);

// Rounds of 50 runs after a new load and one run that does not count.
void model_bench(Sides& sides, int rounds, Log& log);

}  // namespace runner
