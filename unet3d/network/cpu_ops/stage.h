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

}  // namespace unet3d
