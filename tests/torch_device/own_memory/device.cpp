// A torch device of the PrivateUse1 kind with memory of its own, for tests.
//
// Its addresses carry a bit that makes them no address of the host, so that whatever reads them
// without the device faults: data goes in and out by copies alone, which are counted. Its kernels
// are the CPU's, run on that memory in place (`compute`); the operators that OWNMEM_FALLBACK names
// (`silu.out,argmax.out`) have no kernel here and take torch's own way to the host,
// `at::native::cpu_fallback`.

#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr auto kDevice = c10::DeviceType::PrivateUse1;
constexpr uintptr_t kMark = uintptr_t(1) << 55;  // no address of a process has it
constexpr size_t kHeader = 64;                   // before each block: its size
constexpr size_t kTotal = size_t(1) << 32;

std::atomic<size_t> held{0}, peak{0}, sent{0}, fetched{0};

void* host_address(const void* device) {
  return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(device) & ~kMark);
}

void release(void* block) {
  held -= *static_cast<size_t*>(block);
  std::free(block);
}

struct OwnMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    const c10::Device device(kDevice, 0);
    if (n == 0) return {nullptr, device};
    TORCH_CHECK_WITH(OutOfMemoryError, held + n <= kTotal, "ownmem: out of memory");
    void* block = nullptr;
    TORCH_CHECK(posix_memalign(&block, kHeader, kHeader + n) == 0, "ownmem: no memory");
    *static_cast<size_t*>(block) = n;
    const size_t now = held += n;
    for (size_t most = peak; most < now && !peak.compare_exchange_weak(most, now);) {
    }
    const auto address = reinterpret_cast<uintptr_t>(block) + kHeader;
    return {reinterpret_cast<void*>(address | kMark), block, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t n) const override {
    std::memcpy(host_address(to), host_address(from), n);
  }
};

OwnMemory memory;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return c10::Device(kDevice, 0); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
};

bool is_ours(const at::Tensor& t) { return t.defined() && t.device().type() == kDevice; }

// The same numbers as a tensor that the CPU's kernels take: this is the device computing.
at::Tensor opened(const at::Tensor& t) {
  return at::from_blob(host_address(t.const_data_ptr()), t.sizes(), t.strides(), [](void*) {},
                       t.options().device(at::kCPU));
}

at::Tensor make(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
  return at::detail::empty_strided_generic(sizes, strides, &memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type);
}

at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> type,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(sizes, &memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides,
                         std::optional<at::ScalarType> type, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  return make(sizes, strides, c10::dtype_or_default(type));
}

const at::Tensor& resize_(const at::Tensor& self, at::IntArrayRef sizes,
                          std::optional<at::MemoryFormat>) {
  auto* tensor = self.unsafeGetTensorImpl();
  tensor->set_sizes_contiguous(sizes);
  const size_t needed = (tensor->numel() + tensor->storage_offset()) * self.element_size();
  const auto& storage = tensor->unsafe_storage();
  if (storage.nbytes() < needed) {
    auto larger = memory.allocate(needed);
    if (storage.nbytes() > 0) memory.copy_data(larger.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr_noswap(std::move(larger));
    storage.set_nbytes(needed);
  }
  return self;
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  if (!is_ours(from)) sent += from.nbytes();
  if (!is_ours(to)) fetched += to.nbytes();
  auto target = is_ours(to) ? opened(to) : to;
  target.copy_(is_ours(from) ? opened(from) : from);
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar item(const at::Tensor& self) {
  fetched += self.nbytes();
  return opened(self).item();
}

// Attention by products and a softmax, as there is no kernel of the device's own for it.
int64_t attention_by_products(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                              const std::optional<at::Tensor>&, double, bool,
                              std::optional<double>, bool) {
  return 0;
}

at::Tensor taken_over(const at::Tensor& computed) {
  if (!computed.defined()) return computed;
  auto held_here = make(computed.sizes(), computed.strides(), computed.scalar_type());
  opened(held_here).copy_(computed);
  return held_here;
}

// Every operator without a kernel above: the CPU's kernel on the device's memory.
void compute(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t n = schema.arguments().size(), begin = stack->size() - n;
  std::vector<at::Tensor> given(n), grown(n);
  for (size_t i = 0; i < n; ++i) {
    auto& value = (*stack)[begin + i];
    if (value.isTensor() && is_ours(value.toTensor())) {
      given[i] = value.toTensor();
      const auto* alias = schema.arguments()[i].alias_info();
      if (alias != nullptr && alias->isWrite() && given[i].numel() == 0) {
        grown[i] = at::empty({0}, given[i].options().device(at::kCPU));
        value = grown[i];
      } else {
        value = opened(given[i]);
      }
    } else if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& t : list)
        if (is_ours(t)) t = opened(t);
      value = c10::IValue(list);
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor> t : value.toOptionalTensorList())
        list.push_back(t && is_ours(*t) ? std::optional(opened(*t)) : t);
      value = c10::IValue(list);
    } else if (value.isDevice() && value.toDevice().type() == kDevice) {
      value = c10::IValue(c10::Device(at::kCPU));
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (size_t i = 0; i < n; ++i)
    if (grown[i].defined()) copy_from_and_resize(grown[i], given[i]);
  const size_t first = stack->size() - schema.returns().size();
  for (size_t r = 0; r < schema.returns().size(); ++r) {
    auto& value = (*stack)[first + r];
    const auto* alias = schema.returns()[r].alias_info();
    if (alias != nullptr) {
      TORCH_CHECK(alias->isWrite(), "ownmem: ", op.operator_name(), " is a view without a kernel");
      for (size_t i = 0; i < n; ++i) {
        const auto* other = schema.arguments()[i].alias_info();
        if (other != nullptr && *other == *alias && given[i].defined()) value = given[i];
      }
    } else if (value.isTensor()) {
      value = taken_over(value.toTensor());
    } else if (value.isTensorList()) {
      auto list = value.toTensorVector();
      for (auto& t : list) t = taken_over(t);
      value = c10::IValue(list);
    }
  }
}

void on_the_host(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  at::native::cpu_fallback(op, stack);
}

}  // namespace

namespace at {
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);
REGISTER_ALLOCATOR(kDevice, &memory);
}  // namespace at

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &attention_by_products);
}  // namespace at::native

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("resize_", &resize_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  const char* named = std::getenv("OWNMEM_FALLBACK");
  std::istringstream names(named == nullptr ? "" : named);
  for (std::string name; std::getline(names, name, ',');)
    m.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&on_the_host>());
}

TORCH_LIBRARY(ownmem, m) {
  m.def("start() -> ()", [] {
    static Hooks hooks;
    if (!at::isPrivateUse1HooksRegistered()) at::RegisterPrivateUse1HooksInterface(&hooks);
  });
  m.def("counts() -> int[]", [] {
    return std::vector<int64_t>{int64_t(held), int64_t(peak), int64_t(sent), int64_t(fetched)};
  });
  m.def("address(Tensor t) -> int", [](const at::Tensor& t) {
    return int64_t(reinterpret_cast<uintptr_t>(t.const_data_ptr()));
  });
}
