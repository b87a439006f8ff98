#include "temper/nn/expert_matmul.h"

#include "temper/nn/host_kernels.h"
#include "temper/nn/host_op.h"

namespace temper {
namespace {

using Arrays = std::vector<mx::array>;
using Views = std::vector<const mx::array*>;
using Targets = std::vector<float*>;

// The host kernel's view of x [P, I] and W [E, O, I], or W [E, I, O] if not `transposed`.
host::ExpertShape kernel_shape(const mx::array& x, const mx::array& weight) {
  host::ExpertShape shape;
  shape.rows = static_cast<std::size_t>(x.shape(0));
  shape.experts = static_cast<std::size_t>(weight.shape(0));
  shape.matrix_rows = static_cast<std::size_t>(weight.shape(1));
  shape.matrix_columns = static_cast<std::size_t>(weight.shape(2));
  return shape;
}

mx::array host_product(const mx::array& x, const mx::array& weight, const mx::array& experts, bool transposed) {
  const int features = weight.shape(transposed ? 1 : 2);
  return host_op("expert_matmul", {x, weight, experts}, {{x.shape(0), features}},
                 [transposed](const Views& v, const Targets& out) {
                   host::expert_product(kernel_shape(*v[0], *v[1]), transposed, v[0]->data<float>(),
                                        v[1]->data<float>(), v[2]->data<std::uint32_t>(), out[0]);
                 })[0];
}

// sum over each expert's rows of left_p right_p^T: [E, L, R] for left [P, L], right [P, R].
mx::array host_outer(const mx::array& left, const mx::array& right, const mx::array& experts,
                     const mx::Shape& shape) {
  return host_op("expert_matmul_gradient", {left, right, experts}, {shape},
                 [shape](const Views& v, const Targets& out) {
                   host::ExpertShape kernel;
                   kernel.rows = static_cast<std::size_t>(v[0]->shape(0));
                   kernel.experts = static_cast<std::size_t>(shape[0]);
                   kernel.matrix_rows = static_cast<std::size_t>(shape[1]);
                   kernel.matrix_columns = static_cast<std::size_t>(shape[2]);
                   host::expert_outer(kernel, v[0]->data<float>(), v[1]->data<float>(),
                                      v[2]->data<std::uint32_t>(), out[0]);
                 })[0];
}

mx::array host_expert_matmul(const RowExperts& rows, const mx::array& x, const mx::array& weight,
                             bool transposed) {
  const auto forward = [transposed](const Arrays& in) {
    return Arrays{host_product(in[0], in[1], in[2], transposed)};
  };
  const auto backward = [transposed](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    const auto& dy = cotangents[0];
    return Arrays{
        host_product(dy, in[1], in[2], !transposed),
        transposed ? host_outer(dy, in[0], in[2], in[1].shape()) : host_outer(in[0], dy, in[2], in[1].shape()),
        mx::zeros_like(in[2])};
  };
  return mx::custom_vjp(forward, backward)({x, weight, rows.experts_P})[0];
}

mx::array product(const RowExperts& rows, const mx::array& x, const mx::array& weight, bool transposed) {
  if (x.dtype() != mx::float32 && mx::default_device() == mx::Device::cpu) {
    return mx::astype(product(rows, mx::astype(x, mx::float32), weight, transposed), x.dtype());
  }
  const auto matrices = mx::astype(weight, x.dtype());
  if (host::has_expert_kernels() && use_host_kernels(x)) {
    return host_expert_matmul(rows, x, matrices, transposed);
  }
  const auto y = mx::gather_mm(as_matrices(x), transposed ? mx::swapaxes(matrices, 1, 2) : matrices,
                               std::nullopt, rows.experts_P, rows.sorted);
  return mx::reshape(y, {y.shape(0), y.shape(2)});
}

} // namespace

mx::array as_matrices(const mx::array& x_PI) {
  return mx::reshape(x_PI, {x_PI.shape(0), 1, x_PI.shape(1)});
}

mx::array expert_matmul(const RowExperts& rows, const mx::array& x_PI, const mx::array& weight_EOI) {
  return product(rows, x_PI, weight_EOI, true);
}

mx::array expert_matmul_plain(const RowExperts& rows, const mx::array& x_PI, const mx::array& weight_EIO) {
  return product(rows, x_PI, weight_EIO, false);
}

mx::array expert_bias(const RowExperts& rows, const mx::array& bias_EO) {
  const auto forward = [](const Arrays& in) { return Arrays{mx::take(in[0], in[1], 0)}; };
  const auto backward = [](const Arrays& in, const Arrays& cotangents, const Arrays&) {
    const auto experts = mx::arange(0, in[0].shape(0), 1, mx::uint32);
    const auto one_hot_EP = mx::equal(mx::expand_dims(experts, 1), mx::expand_dims(in[1], 0));
    return Arrays{mx::matmul(mx::astype(one_hot_EP, cotangents[0].dtype()), cotangents[0]),
                  mx::zeros_like(in[1])};
  };
  return mx::custom_vjp(forward, backward)({bias_EO, rows.experts_P})[0];
}

} // namespace temper
