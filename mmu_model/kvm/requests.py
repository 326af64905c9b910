"""Requests to vCPUs, and the kick that makes one that runs the guest serve them (kvm_main.c).

A vCPU in the guest sees no request. Whoever makes one kicks it by an interrupt, which takes it out of the
guest; and for some requests waits until it is out: from then on nothing is used any more that the vCPU is
to forget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mmu_model.kvm.task import Steps
from mmu_model.kvm.vcpu import (
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    KVM_REQ_TLB_FLUSH,
    KVM_REQ_TLB_FLUSH_GUEST,
    KvmVcpu,
    Request,
    VcpuMode,
)

if TYPE_CHECKING:
    from mmu_model.kvm.vm import Kvm

KVM_REQUEST_WAIT: Final = KVM_REQ_TLB_FLUSH | KVM_REQ_TLB_FLUSH_GUEST | KVM_REQ_MMU_FREE_OBSOLETE_ROOTS
"""Requests whose maker waits until no vCPU is in the guest, or in a walk, that has not seen them."""


class Kick:
    """Interrupts are on their way to vCPUs of a VM: over when each has taken its own."""

    __slots__ = ("_kvm",)

    def __init__(self, kvm: Kvm) -> None:
        self._kvm = kvm

    def ready(self) -> bool:
        """Whether all have."""
        return not any(vcpu.kicked for vcpu in self._kvm.vcpus)

    def __str__(self) -> str:
        return "vCPUs that were kicked to be outside of the guest"


def make_request(vcpu: KvmVcpu, request: Request) -> None:
    """`kvm_make_vcpu_request`: the vCPU does this before it enters the guest again; kick it if need be."""
    vcpu.requests |= request
    if request_needs_ipi(vcpu, wait=bool(request & KVM_REQUEST_WAIT)):
        vcpu.kicked = True


def check_request(vcpu: KvmVcpu, request: Request) -> bool:
    """`kvm_check_request`: whether it was made; from now on it was not."""
    if not vcpu.requests & request:
        return False
    vcpu.requests &= ~request
    return True


def kvm_vcpu_kick(vcpu: KvmVcpu) -> None:
    """Interrupt a vCPU that is in the guest; for what, it will not know."""
    if request_needs_ipi(vcpu, wait=False):
        vcpu.kicked = True


def request_needs_ipi(vcpu: KvmVcpu, *, wait: bool) -> bool:
    """Whether the vCPU has to be interrupted (kvm_request_needs_ipi).

    One that walks sptes without a lock takes no interrupt until it is through: to wait for the one is to wait
    for the other.
    """
    mode = vcpu.mode
    if mode is VcpuMode.IN_GUEST_MODE:
        vcpu.mode = VcpuMode.EXITING_GUEST_MODE
    return mode is not VcpuMode.OUTSIDE_GUEST_MODE if wait else mode is VcpuMode.IN_GUEST_MODE


def wait_for_kicked(kvm: Kvm) -> Steps[None]:
    """`smp_call_function_many` with `wait`: every vCPU that was kicked has taken its interrupt."""
    kick = Kick(kvm)
    if not kick.ready():
        yield kick


def flush_remote_tlbs(kvm: Kvm) -> Steps[None]:
    """`kvm_flush_remote_tlbs`: afterwards no vCPU uses a translation from before."""
    kvm.stat["remote_tlb_flush"] += 1
    kvm.make_all_cpus_request(KVM_REQ_TLB_FLUSH)
    yield from wait_for_kicked(kvm)


def leave_guest_mode(vcpu: KvmVcpu) -> None:
    """The vCPU is out of the guest, or of a walk, and takes the interrupts that wait."""
    vcpu.mode = VcpuMode.OUTSIDE_GUEST_MODE
    vcpu.kicked = False
