#include "temper/nn/fused.h"

#include "temper/nn/gpu_kernels.h"
#include "temper/nn/host_kernels.h"
#include "temper/nn/host_op.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;
using Views = std::vector<const mx::array*>;
using Targets = std::vector<float*>;

const float* floats(const mx::array* array) {
  return array->data<float>();
}

Arrays swiglu_forward(const Arrays& in) {
  return host_op("swiglu", {in[0], in[1]}, {in[0].shape()}, [](const Views& x, const Targets& y) {
    host::swiglu(floats(x[0]), floats(x[1]), y[0], x[0]->size());
  });
}

Arrays swiglu_backward(const Arrays& in, const Arrays& cotangents, const Arrays&) {
  return host_op("swiglu_gradient", {in[0], in[1], cotangents[0]}, {in[0].shape(), in[1].shape()},
                 [](const Views& x, const Targets& y) {
                   host::swiglu_gradient(floats(x[0]), floats(x[1]), floats(x[2]), y[0], y[1], x[0]->size());
                 });
}

// x [B, T, heads D] turned by the tokens' angles; `direction` -1 turns back, which is the gradient.
Arrays rotated(const Arrays& in, int heads, float direction) {
  return host_op("rope", {in[0], in[1], in[2]}, {in[0].shape()},
                 [heads, direction](const Views& v, const Targets& out) {
                   const auto half = static_cast<std::size_t>(v[1]->shape(-1));
                   const auto count = static_cast<std::size_t>(heads);
                   const std::size_t rows = v[1]->size() / half;
                   host::rotate(floats(v[0]), floats(v[1]), floats(v[2]), direction, out[0], rows, count,
                                v[0]->size() / rows / count, half);
                 });
}

mx::array rotate(const mx::array& x, const HostAttention& spec, int heads) {
  const auto forward = [heads](const Arrays& in) { return rotated(in, heads, 1.0F); };
  const auto backward = [heads](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    return Arrays{rotated({cotangents[0], in[1], in[2]}, heads, -1.0F)[0], mx::zeros_like(in[1]),
                  mx::zeros_like(in[2])};
  };
  return mx::custom_vjp(forward, backward)({x, spec.cos_NK, spec.sin_NK})[0];
}

host::AttentionShape kernel_shape(const HostAttention& spec, const Views& v) {
  host::AttentionShape shape;
  const auto features = static_cast<std::size_t>(v[0]->shape(-1));
  shape.tokens = v[0]->size() / features;
  shape.documents = static_cast<std::size_t>(v[3]->shape(0));
  shape.heads = static_cast<std::size_t>(spec.heads);
  shape.kv_heads = static_cast<std::size_t>(spec.kv_heads);
  shape.head_dim = features / shape.heads;
  shape.window = static_cast<std::size_t>(spec.window);
  shape.scale = spec.scale;
  return shape;
}

const std::int32_t* integers(const mx::array* array) {
  return array->data<std::int32_t>();
}

std::size_t row_count(const mx::array& x) {
  return x.size() / static_cast<std::size_t>(x.shape(-1));
}

} // namespace

mx::array swiglu(const mx::array& gate, const mx::array& up) {
  if (use_host_kernels(gate)) {
    return mx::custom_vjp(swiglu_forward, swiglu_backward)({gate, up})[0];
  }
  if (gpu::serves(gate)) {
    return gpu::gated(gpu::Gate::silu, gate, up);
  }
  return gate * mx::sigmoid(gate) * up;
}

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps) {
  if (!use_host_kernels(x)) {
    return mx::fast::rms_norm(x, weight, eps);
  }
  const auto forward = [eps](const Arrays& in) {
    return host_op("rms_norm", {in[0], in[1]}, {in[0].shape()}, [eps](const Views& v, const Targets& out) {
      host::rms_norm(floats(v[0]), floats(v[1]), eps, out[0], row_count(*v[0]), v[1]->size());
    });
  };
  const auto backward = [eps](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    const auto rows = static_cast<int>(row_count(in[0]));
    auto gradients =
        host_op("rms_norm_gradient", {in[0], in[1], cotangents[0]}, {in[0].shape(), {rows, in[1].shape(0)}},
                [eps](const Views& v, const Targets& out) {
                  host::rms_norm_gradient(floats(v[0]), floats(v[1]), eps, floats(v[2]), out[0], out[1],
                                          row_count(*v[0]), v[1]->size());
                });
    return Arrays{gradients[0], mx::sum(gradients[1], 0)};
  };
  return mx::custom_vjp(forward, backward)({x, weight})[0];
}

mx::array host_attention(const HostAttention& spec, const mx::array& q, const mx::array& k,
                         const mx::array& v) {
  const auto forward = [spec](const Arrays& in) {
    const int tokens = in[0].shape(0) * in[0].shape(1);
    return host_op("attention", in, {in[0].shape(), {tokens, spec.heads}},
                   [spec](const Views& x, const Targets& out) {
                     host::attention(kernel_shape(spec, x), floats(x[0]), floats(x[1]), floats(x[2]),
                                     integers(x[3]), out[0], out[1]);
                   });
  };
  const auto backward = [spec](const Arrays& in, const Arrays& cotangents, const Arrays& out) {
    auto gradients = host_op(
        "attention_gradient", {in[0], in[1], in[2], in[3], out[0], out[1], cotangents[0]},
        {in[0].shape(), in[1].shape(), in[2].shape()}, [spec](const Views& x, const Targets& y) {
          host::attention_gradient(kernel_shape(spec, x), floats(x[0]), floats(x[1]), floats(x[2]),
                                   integers(x[3]), floats(x[4]), floats(x[5]), floats(x[6]), y[0], y[1], y[2]);
        });
    gradients.push_back(mx::zeros_like(in[3]));
    return gradients;
  };
  const auto turned_q = rotate(q, spec, spec.heads);
  const auto turned_k = rotate(k, spec, spec.kv_heads);
  return mx::custom_vjp(forward, backward)({turned_q, turned_k, v, spec.documents_M2})[0];
}

} // namespace temper
