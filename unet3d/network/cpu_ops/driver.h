// Work items for the threads of ATen's pool, and memory for their intermediate values.
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstddef>
#include <cstdint>

namespace unet3d {

// Calls body(item, scratch) once for every item of [0, items). Threads take the next item when they are done with one.
// `scratch` has `bytes` bytes for the calling thread alone, aligned to 2 MiB, with anything in them.
void for_each(int64_t items, size_t bytes, c10::function_ref<void(int64_t, char*)> body);

// One huge page of x86-64: memory is aligned to it and made in multiples of it, so that the kernel can use such pages.
constexpr size_t kPage = 2 << 20;
// `bytes` made up to whole pages.
size_t whole_pages(size_t bytes);
// So many bytes, a whole number of pages, for std::free; null where there is not enough memory.
char* huge_pages(size_t bytes);

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bytes between rows of `bytes` bytes: a whole number of cache lines, and an odd one, so that rows spread over the
// sets of the caches.
constexpr size_t odd_lines(size_t bytes) { return (divide_up(bytes, 64) | 1) * 64; }

}  // namespace unet3d
