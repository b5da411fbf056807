// How fast each instruction set multiplies when nothing else has to be done: the hardware's ceiling, see peak.py.
#pragma once

#include <c10/util/string_view.h>

#include <cstdint>
#include <string>
#include <vector>

namespace unet3d {

// Names of the instruction sets that the compiler's target has and this process may use.
std::vector<std::string> product_loops();
// `rounds` rounds of products by this instruction set in registers, in several items for each thread; the FLOP (or integer
// operations) of all of them, a multiplication and an addition being two.
double product_loop(c10::string_view instructions, int64_t rounds);

}  // namespace unet3d
