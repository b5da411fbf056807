// Stage 1 of a layer: values of a source, normalised and activated, on their way into scratch memory.
#pragma once

#include "layer.h"

namespace unet3d {

// Scale, shift and LeakyReLU of one block of 32 channels of one sample, in the order of slots.
struct Activation {
  Vec scale[kParts], shift[kParts], slope;

  template <class T>
  static Activation of(const Source& source, int64_t sample, int64_t channel, float slope) {
    Activation made;
    bool identity = source.scale == nullptr;
    for (int slot = 0; slot < kBlock; ++slot) {
      int64_t at = sample * source.channels + channel + slot_channel<T>(slot);
      made.scale[slot / kLanes][slot % kLanes] = identity ? 1.0f : source.scale[at];
      made.shift[slot / kLanes][slot % kLanes] = identity ? 0.0f : source.shift[at];
    }
    made.slope = broadcast(identity ? 1.0f : slope);
    return made;
  }

  UNET3D_INLINE Vec operator()(Vec v, int part) const { return leaky_relu(v * scale[part] + shift[part], slope); }
};

// Which source has a block of input channels, and the first of these channels in it.
struct SourceBlock {
  const Source* source;
  int64_t channel;
};

inline SourceBlock source_block(const Layer& layer, int64_t block) {
  int64_t channel = block * kBlock, first = layer.sources[0].channels;
  return channel < first ? SourceBlock{&layer.sources[0], channel} : SourceBlock{&layer.sources[1], channel - first};
}

// Scratch memory of bf16 is a number of 16 bits to products.h.
inline c10::BFloat16* as_storage(uint16_t* p) { return (c10::BFloat16*)p; }
inline float* as_storage(float* p) { return p; }

// One voxel's 32 channels from `from` to `to`, in slots, in the type E of the products.
template <class T, class E>
UNET3D_INLINE void stage_voxel(const T* from, const Activation& activation, E* to) {
  Vec v[kParts];
#pragma GCC unroll 8
  for (int part = 0; part < kParts; ++part) {
    v[part] = odd_part<T>(part) ? load_part<true>(from, part) : load_part<false>(from, part);
    v[part] = activation(v[part], part);
  }
  store_block(as_storage(to), v, false);
}

}  // namespace unet3d
