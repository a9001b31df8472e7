#include "phases.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>

#include "device.h"
#include "picture.h"

namespace runner {

namespace {

constexpr double kFlushS = 1;    // between two writes of samples
constexpr double kThermalS = 10; // between two readings; the headroom may be asked for once a second at most
constexpr int kMostAtOnce = 64;  // runs of one turn
constexpr int kBenchRuns = 50;

// A B B A, or A B C C B A.
std::vector<std::size_t> order_of(std::size_t count) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < count; ++i) order.push_back(i);
  for (std::size_t i = count; i-- > 0;) order.push_back(i);
  return order;
}

bool there(const std::string& path) {
  struct stat found;
  return stat(path.c_str(), &found) == 0;
}

// Keeps samples in memory and writes them about once a second, between turns.
class Samples {
 public:
  Samples(const char* part, std::size_t sides, Log& log) : part_(part), log_(log), waiting_(sides), written_(now_s()) {
    for (auto& values : waiting_) values.reserve(1 << 14);
  }
  void add(std::size_t side, double ms) { waiting_[side].push_back(ms); }
  void write(bool now = false) {
    if (!now && now_s() - written_ < kFlushS) return;
    for (std::size_t side = 0; side < waiting_.size(); ++side) {
      if (waiting_[side].empty()) continue;
      log_.write(Event("samples").text("part", part_).integer("side", side).numbers("ms", waiting_[side]));
      waiting_[side].clear();
    }
    written_ = now_s();
  }

 private:
  const char* part_;
  Log& log_;
  std::vector<std::vector<double>> waiting_;
  double written_;
};

// Mean of a run of each side in ms, after at least `runs` runs and `seconds`.
std::vector<double> warm(Sides& sides, const Job& job, Log& log) {
  std::vector<double> means;
  for (std::size_t i = 0; i < sides.size(); ++i) {
    double sum = 0;
    int count = 0;
    while (count < job.warmup_runs || sum < 1000 * job.warmup_s) {
      sum += sides[i].run();
      ++count;
    }
    means.push_back(count > 0 ? sum / count : 0);
    log.write(Event("warm").integer("side", i).integer("runs", count));
  }
  return means;
}

std::vector<int> runs_at_once(const std::vector<double>& means) {
  const double slowest = *std::max_element(means.begin(), means.end());
  std::vector<int> counts;
  for (const double mean : means) {
    counts.push_back(mean > 0 ? std::clamp(static_cast<int>(std::lround(slowest / mean)), 1, kMostAtOnce) : 1);
  }
  return counts;
}

}  // namespace

void first_runs(Sides& sides, Log& log) {
  for (std::size_t i = 0; i < sides.size(); ++i) {
    const long long start = memory().resident;
    const double load_ms = sides[i].load();
    const double first_ms = sides[i].run();
    log.write(Event("first")
                  .integer("side", i)
                  .number("load_ms", load_ms)
                  .number("first_ms", first_ms)
                  .texts("outputs", sides[i].write_outputs())
                  .integer("start_bytes", start)
                  .integer("loaded_bytes", memory().resident));
  }
}

bool allowed(const std::string& folder, double wait_s) {
  const double end = now_s() + wait_s;
  while (now_s() < end) {
    if (there(folder + "/stop")) return false;
    if (there(folder + "/go")) return true;
    usleep(20000);
  }
  return wait_s <= 0;
}

void timed_runs(Sides& sides, const Job& job, Log& log) {
  const auto at_once = runs_at_once(warm(sides, job, log));
  std::vector<int> counts(sides.size());
  std::vector<double> sums(sides.size());
  Samples steady("steady", sides.size(), log), bare("bare", sides.size(), log);
  const auto order = order_of(sides.size());
  const auto enough = [&] {
    for (std::size_t i = 0; i < sides.size(); ++i) {
      if (counts[i] < job.runs || sums[i] < 1000 * job.seconds) return false;
    }
    return true;
  };
  const double start = now_s(), spent = spent_s();
  double bare_ms = 0, read = start;
  while (!enough()) {
    for (const std::size_t i : order) {
      for (int k = 0; k < at_once[i]; ++k) {
        const double ms = sides[i].run();
        steady.add(i, ms);
        sums[i] += ms;
        ++counts[i];
        if (job.bare) {
          const double alone = sides[i].run_bare();
          bare.add(i, alone);
          bare_ms += alone;
        }
      }
    }
    steady.write();
    bare.write();
    if (now_s() - read >= kThermalS) {
      log.write(thermal("during"));
      read = now_s();
    }
  }
  steady.write(true);
  bare.write(true);
  double timed_ms = bare_ms;
  for (const double sum : sums) timed_ms += sum;
  log.write(Event("loop")
                .number("wall_ms", 1000 * (now_s() - start))
                .number("timed_ms", timed_ms)
                .number("cpu_ms", 1000 * (spent_s() - spent)));
}

void whole_runs(Sides& sides, int runs, Log& log) {
  std::vector<bool> able(sides.size(), true);
  for (std::size_t i = 0; i < sides.size(); ++i) {
    try {
      if (sides[i].picture().empty()) throw std::runtime_error("no picture was given");
      const Picture picture = decoded(sides[i].picture());
      log.write(Event("picture").integer("side", i).integers("size", {picture.width, picture.height}));
      sides[i].end_to_end();
    } catch (const std::exception& error) {
      able[i] = false;
      log.write(Event("no_picture").integer("side", i).text("reason", error.what()));
    }
  }
  static const char* const parts[] = {"whole", "decode", "resize", "forward", "after"};
  std::vector<Samples> samples;
  for (const char* part : parts) samples.emplace_back(part, sides.size(), log);
  int done = 0;
  while (done < runs) {
    for (const std::size_t i : order_of(sides.size())) {
      if (!able[i]) continue;
      const auto times = sides[i].end_to_end();
      for (std::size_t k = 0; k < times.size(); ++k) samples[k].add(i, times[k]);
    }
    done += 2;
    for (auto& part : samples) part.write(done >= runs);
  }
}

void sustained_runs(Sides& sides, double seconds, Log& log) {
  Samples kept("sustained", sides.size(), log);
  const double start = now_s();
  double read = start;
  while (now_s() - start < seconds) {
    for (const std::size_t i : order_of(sides.size())) {
      const bool late = now_s() - start >= 0.9 * seconds;
      const double ms = sides[i].run();
      if (late) kept.add(i, ms);
    }
    kept.write();
    if (now_s() - read >= kThermalS) {
      log.write(thermal("during"));
      read = now_s();
    }
  }
  kept.write(true);
}

void model_bench(Sides& sides, int rounds, Log& log) {
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < sides.size(); ++i) {
      sides[i].load();
      sides[i].run();
      std::vector<double> times;
      for (int k = 0; k < kBenchRuns; ++k) times.push_back(sides[i].run());
      log.write(Event("round").integer("side", i).numbers("ms", times));
    }
  }
}

}  // namespace runner
