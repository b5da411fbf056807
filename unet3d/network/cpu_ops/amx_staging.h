// The order in which a work item's input is staged into its ring of planes, and how this is spread over the products.
#pragma once

#include <algorithm>

#include "amx_form.h"
#include "amx_products.h"
#include "driver.h"

namespace unet3d::amx {

// An item's steps along z: output planes [z, end), kPlanes in each step.
struct Walk {
  int64_t z, end, stride;
  int kernel;

  int64_t steps() const { return divide_up(end - z, kPlanes); }
  // Input planes are numbered from the border before plane 0. Step i reads those before until(i).
  int64_t until(int64_t step) const { return (std::min(end, z + (step + 1) * kPlanes) - 1) * stride + kernel; }
  int64_t from(int64_t step) const { return step == 0 ? z * stride : until(step - 1); }
};

// The pieces of an item: step by step what is new, rows before planes. A step's first rows are so needed no longer when
// the next step's are put into their place.
class Pieces {
 public:
  Pieces(const Walk& walk, int64_t rows, int64_t columns, int64_t chunks)
      : walk_(walk), rows_(rows), columns_(columns), chunks_(chunks), parts_(divide_up(columns, kColumns)), plane_(walk.from(0)) {}

  bool ended() const { return step_ == walk_.steps(); }
  int64_t step() const { return step_; }
  int64_t row() const { return row_; }
  int64_t plane() const { return plane_; }
  // How many pieces a step has.
  int64_t of_step(int64_t step) const { return (walk_.until(step) - walk_.from(step)) * rows_ * chunks_ * parts_; }

  Piece operator*() const {
    return {plane_ - walk_.kernel / 2, row_, chunk_, columns_ * part_ / parts_, columns_ * (part_ + 1) / parts_};
  }
  void operator++() {
    if (++part_ < parts_) return;
    part_ = 0;
    if (++chunk_ < chunks_) return;
    chunk_ = 0;
    if (++plane_ < walk_.until(step_)) return;
    plane_ = walk_.from(step_);
    if (++row_ < rows_) return;
    row_ = 0;
    if (++step_ < walk_.steps()) plane_ = walk_.from(step_);
  }

 private:
  // At most so many voxels are a piece.
  static constexpr int64_t kColumns = 16;

  Walk walk_;
  int64_t rows_, columns_, chunks_, parts_;
  int64_t step_ = 0, row_ = 0, plane_, chunk_ = 0, part_ = 0;
};

// Stages an item's pieces, the next ones prefetched.
template <class FORM>
class Staging {
 public:
  Staging(const FORM& form, const Layout& layout, const Window& window, const Pieces& pieces, int64_t ring, int64_t plane_bytes,
          int64_t chunk_bytes, char* memory)
      : form_(form), layout_(layout), window_(window), ring_(ring), plane_bytes_(plane_bytes), chunk_bytes_(chunk_bytes),
        memory_(memory), next_(pieces), ahead_(pieces) {
    for (int i = 0; i < kAhead; ++i) prefetch();
  }

  // All that is left of a step.
  void finish(int64_t step) {
    while (!next_.ended() && next_.step() == step) stage();
  }
  // From here on `advance` is called so many times, in which a step is to be staged.
  void begin(int64_t step, int64_t calls, int64_t rows) {
    step_ = step;
    pace_ = next_.ended() ? 0 : double(next_.of_step(step)) / calls * rows / std::max<int64_t>(1, rows - 1);
    due_ = 0;
  }
  // What is due of the step, in the rows before `free`.
  void advance(int64_t free) {
    due_ = std::min(due_, 2.0) + pace_;
    while (due_ >= 1 && !next_.ended() && next_.step() == step_ && next_.row() < free) stage(), due_ -= 1;
  }

 private:
  static constexpr int kAhead = 16;  // pieces

  void prefetch() {
    if (ahead_.ended()) return;
    form_.prefetch(window_, *ahead_);
    ++ahead_;
  }
  void stage() {
    prefetch();
    Piece piece = *next_;
    form_.stage(layout_, window_, piece, memory_ + next_.plane() % ring_ * plane_bytes_ + piece.chunk * chunk_bytes_);
    ++next_;
  }

  const FORM& form_;
  const Layout& layout_;
  Window window_;
  int64_t ring_, plane_bytes_, chunk_bytes_;
  char* memory_;
  Pieces next_, ahead_;
  int64_t step_ = 0;
  double pace_ = 0, due_ = 0;
};

}  // namespace unet3d::amx
