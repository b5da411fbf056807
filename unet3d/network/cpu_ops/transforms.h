// One-dimensional Winograd transforms F(M, 3) of vectors, M even: M outputs of a convolution with 3 taps from M + 2
// products. pack.py transforms the weights with the same points.
#pragma once

#include "vec.h"

namespace unet3d {

// The points are 0, plus and minus each of these, and infinity. For M = 4 these have a third of the error of 1 and 2.
template <int M>
struct Points;
template <>
struct Points<2> {
  static constexpr float p[] = {1.0f};
};
template <>
struct Points<4> {
  static constexpr float p[] = {0.625f, 1.5f};
};
template <>
struct Points<6> {
  static constexpr float p[] = {1.0f, 2.0f, 0.5f};
};

// Each finite point's row has the coefficients of the polynomial with the other finite points as its roots, the row of
// infinity that with all of them. x [M + 2] is replaced by its transform.
template <int M>
UNET3D_INLINE void transform_input(Vec* x) {
  using P = Points<M>;
  if constexpr (M == 2) {
    constexpr float p2 = P::p[0] * P::p[0];
    Vec first = x[2] - p2 * x[0], last = x[3] - p2 * x[1];
    Vec odd = P::p[0] * x[1], even = x[2];
    x[0] = first;
    x[1] = even + odd;
    x[2] = even - odd;
    x[3] = last;
  } else if constexpr (M == 6) {
    constexpr float p = P::p[0], q = P::p[1], r = P::p[2], p2 = p * p, q2 = q * q, r2 = r * r;
    // p2 q2 r2 is 1.
    Vec first = (x[6] - x[0]) + (p2 * q2 + q2 * r2 + p2 * r2) * x[2] - (p2 + q2 + r2) * x[4];
    Vec last = (x[7] - x[1]) + (p2 * q2 + q2 * r2 + p2 * r2) * x[3] - (p2 + q2 + r2) * x[5];
    Vec even_p = (x[6] + q2 * r2 * x[2]) - (q2 + r2) * x[4], odd_p = (x[5] + q2 * r2 * x[1]) - (q2 + r2) * x[3];
    Vec even_q = (x[6] + p2 * r2 * x[2]) - (p2 + r2) * x[4], odd_q = (x[5] + p2 * r2 * x[1]) - (p2 + r2) * x[3];
    Vec even_r = (x[6] + p2 * q2 * x[2]) - (p2 + q2) * x[4], odd_r = (x[5] + p2 * q2 * x[1]) - (p2 + q2) * x[3];
    x[0] = first;
    x[1] = even_p + p * odd_p;
    x[2] = even_p - p * odd_p;
    x[3] = even_q + q * odd_q;
    x[4] = even_q - q * odd_q;
    x[5] = even_r + r * odd_r;
    x[6] = even_r - r * odd_r;
    x[7] = last;
  } else {
    static_assert(M == 4);
    constexpr float p = P::p[0], q = P::p[1], p2 = p * p, q2 = q * q;
    Vec first = p2 * q2 * x[0] + (x[4] - (p2 + q2) * x[2]);
    Vec last = p2 * q2 * x[1] + (x[5] - (p2 + q2) * x[3]);
    Vec even_p = x[4] - q2 * x[2], odd_p = x[3] - q2 * x[1];
    Vec even_q = x[4] - p2 * x[2], odd_q = x[3] - p2 * x[1];
    x[0] = first;
    x[1] = even_p + p * odd_p;
    x[2] = even_p - p * odd_p;
    x[3] = even_q + q * odd_q;
    x[4] = even_q - q * odd_q;
    x[5] = last;
  }
}

// y [M] from products m [M + 2]: y[k] is the sum of the products, each times its point to the power of k.
template <int M>
UNET3D_INLINE void transform_output(const Vec* m, Vec* y) {
  using P = Points<M>;
  if constexpr (M == 2) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = P::p[0] * (m[1] - m[2]) + m[3];
  } else if constexpr (M == 6) {
    constexpr float p = P::p[0], q = P::p[1], r = P::p[2], p2 = p * p, q2 = q * q, r2 = r * r;
    Vec sum_p = m[1] + m[2], difference_p = m[1] - m[2], sum_q = m[3] + m[4], difference_q = m[3] - m[4];
    Vec sum_r = m[5] + m[6], difference_r = m[5] - m[6];
    y[0] = m[0] + sum_p + (sum_q + sum_r);
    y[1] = p * difference_p + q * difference_q + r * difference_r;
    y[2] = p2 * sum_p + q2 * sum_q + r2 * sum_r;
    y[3] = p2 * p * difference_p + q2 * q * difference_q + r2 * r * difference_r;
    y[4] = p2 * p2 * sum_p + q2 * q2 * sum_q + r2 * r2 * sum_r;
    y[5] = p2 * p2 * p * difference_p + q2 * q2 * q * difference_q + (r2 * r2 * r * difference_r + m[7]);
  } else {
    static_assert(M == 4);
    constexpr float p = P::p[0], q = P::p[1];
    Vec sum_p = m[1] + m[2], difference_p = m[1] - m[2], sum_q = m[3] + m[4], difference_q = m[3] - m[4];
    y[0] = m[0] + (sum_p + sum_q);
    y[1] = q * difference_q + p * difference_p;
    y[2] = q * q * sum_q + p * p * sum_p;
    y[3] = q * q * q * difference_q + (p * p * p * difference_p + m[5]);
  }
}

}  // namespace unet3d
